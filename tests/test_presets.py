"""Every preset builds, and names what a user needs to know."""

import pytest

from voxpair.core.errors import InputError
from voxpair.presets import PRESETS, part, plan


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "auto"])
def test_every_preset_builds_and_says_what_to_expect(name):
    built = plan(name)
    assert built.generator.preprocess == built.segmentation.preprocess == built.pretraining.preprocess
    words = PRESETS[name].__doc__
    for topic in ("Command", "Hardware", "Time", "Score"):
        assert f"{topic}:" in words, f"preset {name} does not say {topic}"


def test_paper_means_what_the_papers_say():
    paper = plan("paper")
    assert paper.generator.preprocess.grid == (256, 256, 160)
    parts = (paper.generator, paper.pretraining, paper.segmentation)
    assert [part.preprocess.soft_tissue_hu for part in parts] == [None] * 3
    assert paper.generator.autoencoder.label_code == "rgb" and paper.generator.autoencoder.stem_channels == 3
    assert paper.generator.autoencoder.augmentation == "paper"
    assert paper.pretraining.masking.kind == "paper" and paper.pretraining.loss == "whole"
    assert paper.synthetic_per_real == 3 and paper.pretrain_on == "synthetic"
    assert paper.segmentation.loop.patience == 10 and paper.pretraining.loop.patience == 50
    # Epochs: nine tenths of 168 real and 504 synthetic pairs, of the 504 images, four at a time.
    assert paper.segmentation.loop.validate_every == 151 and paper.segmentation.loop.updates == 300 * 151
    assert paper.pretraining.loop.validate_every == 113


def test_a_part_of_a_preset_takes_overrides_of_its_own():
    settings = part("unit", "segmentation", {}, ["loop.updates=3"])
    assert settings.loop.updates == 3


@pytest.mark.parametrize(
    ("name", "assignments", "text"),
    [
        ("huge", [], "no preset 'huge'; there are"),
        ("unit", ["generator.depth=3"], "unknown setting 'generator.depth'"),
        ("unit", ["cases.phantom=none"], "cases.phantom"),
    ],
)
def test_wrong_words_are_named(name, assignments, text):
    with pytest.raises(InputError, match=text):
        plan(name, {}, assignments)

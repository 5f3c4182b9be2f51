"""MedGen3D as one generator: what the contract suite does not ask of it."""

import shutil

import numpy as np
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from voxpair.cli import app
from voxpair.cohorts.cohort import Cohort, CohortWriter
from voxpair.cohorts.preprocess import PreprocessSettings
from voxpair.core.case import Case
from voxpair.core.errors import InputError, RunError
from voxpair.core.labels import LabelTable
from voxpair.core.run import RunFolder
from voxpair.core.settings import override
from voxpair.generators import GENERATORS
from voxpair.generators.medgen3d.generator import MedGen3D, MedGen3DSettings
from voxpair.generators.medgen3d.presets import SIZES, medgen3d_settings
from voxpair.presets import PRESETS, part

TABLE = LabelTable.from_mapping("slabs", {"background": 0, "low": 3, "high": 7})
GRID = PreprocessSettings(grid=(16, 16, 12), fit="crop_or_pad")
SPACING_MM = (2.0, 1.0, 3.0)
TINY = override(
    medgen3d_settings("unit", GRID),
    ["mask_sequence.depth_range=[0.5, 1.0]", "mask_sequence.loop.updates=2", "image_sequence.loop.updates=2"],
)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    writer = CohortWriter(tmp_path_factory.mktemp("slabs") / "cohort", TABLE, "MRI")
    for index in range(3):
        labels = np.zeros((16, 16, 12), np.uint8)
        labels[4:12, 3:12, : 6 + index] = 3
        labels[4:12, 5:9, 8:] = 7
        image = (50.0 * labels + np.random.default_rng(index).normal(0, 5, labels.shape)).astype(np.float32)
        writer.add(
            Case(f"case_{index}", image, labels, np.diag((*SPACING_MM, 1)), TABLE, patient=f"p{index}"), split="train"
        )
    return writer.finish()


@pytest.fixture(scope="module")
def run(cohort, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    MedGen3D(TINY, TABLE, "MRI").fit(cohort, RunFolder(folder, seed=1))
    return folder


@pytest.fixture
def fitted(cohort, run):
    """A generator of its own for every test, since some put other steps in."""
    model = MedGen3D(TINY, TABLE, "MRI")
    model.fit(cohort, RunFolder(run, seed=1))
    return model


def test_the_image_is_made_of_the_labels_that_come_with_it(fitted, monkeypatch):
    """Whatever the label model draws, painter and refiner get exactly that, and the case carries it."""
    seen = {}

    def paint(classes, seed):
        seen["painted"] = classes.copy()
        return (classes / 2).astype(np.float32)

    def refine(image, classes, seed, walk):
        seen["refined"] = classes.copy()
        return image

    drawn = np.random.default_rng(0).integers(0, 3, (16, 16, 12)).astype(np.uint8)
    monkeypatch.setattr(fitted._networks["mask_sequence"], "sample", lambda *_: drawn)
    monkeypatch.setattr(fitted._networks["image_sequence"], "paint", paint)
    monkeypatch.setattr(fitted._networks["refiner"], "refine", refine)
    (case,) = fitted.sample(1, seed=0)
    assert np.array_equal(seen["painted"], drawn) and np.array_equal(seen["refined"], drawn)
    assert np.array_equal(case.labels, np.array([0, 3, 7])[drawn])
    correlation = np.corrcoef(case.image.ravel(), drawn.ravel())[0, 1]
    assert correlation == pytest.approx(1, abs=1e-6)


def test_a_depth_that_is_asked_for_comes_out_over_the_same_extent(fitted):
    for asked, depth in ((None, 12), (6, 6), ("9", 9)):
        (case,) = fitted.sample(1, seed=0, condition=None if asked is None else {"depth": asked})
        assert case.labels.shape == case.image.shape == (16, 16, depth)
        assert np.array(case.spacing_mm) * case.image.shape == pytest.approx([32, 16, 36])


@pytest.mark.parametrize(
    ("condition", "text"),
    [
        ({"depth": 5}, "fitted on volumes of 6 to 12 slices, got a depth of 5"),
        ({"depth": 13}, "got a depth of 13"),
        ({"depth": "many"}, "a whole number of slices, got 'many'"),
        ({"depth": 7.5}, "a whole number of slices"),
        ({"sex": "F"}, "known are depth"),
    ],
)
def test_what_it_was_not_fitted_for_is_refused_before_anything_is_drawn(fitted, condition, text):
    with pytest.raises(InputError, match=text):
        fitted.sample(1, seed=0, condition=condition)


def test_another_label_table_is_refused(cohort, tmp_path):
    other = LabelTable.from_mapping("other", {"background": 0, "low": 3})
    with pytest.raises(InputError, match="labels"):
        MedGen3D(TINY, other, "MRI").fit(cohort, RunFolder(tmp_path))


def test_unrefined_is_the_painted_volume(fitted, monkeypatch):
    plain = override(TINY, ["sampling.refined=false"])
    monkeypatch.setattr(fitted, "settings", plain)
    monkeypatch.setattr(fitted._networks["refiner"], "refine", lambda *_: pytest.fail("refined all the same"))
    (case,) = fitted.sample(1, seed=0)
    assert np.isfinite(case.image).all()


def test_steps_do_not_depend_on_one_another(cohort, run, tmp_path):
    """Another refiner leaves the weights of the other steps where they are, and they are not fitted again."""
    for step in ("mask_sequence", "image_sequence"):
        shutil.copytree(run / step, tmp_path / step)
    settings = override(TINY, ["refiner.diffusion.loop.updates=1"])
    MedGen3D(settings, TABLE, "MRI").fit(cohort, RunFolder(tmp_path, seed=1))
    for step in ("mask_sequence", "image_sequence"):
        old, new = (folder / step / "weights.safetensors" for folder in (run, tmp_path))
        assert old.read_bytes() == new.read_bytes() and old.stat().st_mtime_ns == new.stat().st_mtime_ns
    with pytest.raises(InputError, match="other settings or data"):
        other = override(TINY, ["mask_sequence.known=1"])
        MedGen3D(other, TABLE, "MRI").fit(cohort, RunFolder(tmp_path, seed=1))


def test_a_painter_that_diverged_is_refused_by_case_and_seed(fitted, monkeypatch):
    nan = np.full((16, 16, 12), np.nan, np.float32)
    monkeypatch.setattr(fitted._networks["image_sequence"], "paint", lambda *_: nan)
    monkeypatch.setattr(fitted._networks["refiner"], "refine", lambda image, *_: image)
    with pytest.raises(RunError, match="synthetic case 0 of seed 4"):
        next(fitted.sample(1, seed=4))


@pytest.mark.parametrize(
    ("assignment", "text"),
    [
        ("preprocess.grid=[17, 16, 12]", "multiples of 2.*slice_size"),
        ("preprocess.grid=[16, 16, 8]", "volumes get as short as 4"),
        ("sampling.steps=2000", "above the number of noise levels"),
        ("sampling.refiner.start=200", "up to noise level 100"),
        ("image_sequence.clip=17", "12 axial slices, fewer than image_sequence.clip = 17"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(assignment, text):
    with pytest.raises((InputError, ValidationError), match=text):
        override(TINY, [assignment])


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "auto"])
def test_every_preset_has_settings_for_it(name):
    settings = part(name, "generator", generator="medgen3d")
    assert isinstance(settings, MedGen3DSettings)
    if name != "paper":  # which has the grid of its own paper
        assert settings.preprocess == part(name, "generator").preprocess
    literal = name.endswith("paper")
    assert (settings.mask_sequence.label_code == "scalar") is literal
    assert (settings.sampling.sampler, settings.sampling.steps == 1000) == (
        ("ddpm", True) if literal else ("dpm_solver", False)
    )
    walk = settings.sampling.refiner
    assert (walk.start == 10 and walk.fusion == "mean") is literal
    assert settings.image_sequence.shortcut is not literal
    assert (settings.sampling.first_window == "random") is literal


def test_paper_is_what_the_paper_says():
    paper = part("paper", "generator", generator="medgen3d")
    assert paper.preprocess.grid == (320, 320, 96)
    assert paper.mask_sequence.window == 6 and paper.mask_sequence.slice_size == (128, 128)
    assert paper.mask_sequence.prediction == "epsilon" and paper.mask_sequence.levels == 1000
    assert set(SIZES) == {name for name in PRESETS if "paper" not in name} - {"auto"}


def test_the_command_line_fits_and_samples_it(cohort, tmp_path):
    def voxpair(*words):
        result = CliRunner().invoke(app, [*map(str, words), "--device", "cpu", "--quiet"])
        assert result.exit_code == 0, result.output

    small = [word for a in ("preprocess.grid=[16,16,12]", "image_sequence.loop.updates=1") for word in ("--set", a)]
    fit = ("fit", cohort.folder, "-o", tmp_path / "run", "--generator", "medgen3d", "--preset", "unit")
    voxpair(*fit, *small)
    voxpair("sample", tmp_path / "run", "-o", tmp_path / "pairs", "-n", 2)
    pairs = Cohort.open(tmp_path / "pairs")
    assert len(pairs) == 2 and all(record.source == "synthetic" for record in pairs.records)
    for name, changes in (
        ("paper", ("refiner.start=10", "refiner.fusion=mean", "refiner.steps=null")),
        ("painted", ("refined=false",)),
    ):
        words = [word for change in changes for word in ("--set", change)]
        voxpair("sample", tmp_path / "run", "-o", tmp_path / name, "-n", 1, *words)
        drawn, other = Cohort.open(tmp_path / name).read(pairs.names[0]), pairs.read(pairs.names[0])
        assert np.array_equal(drawn.labels, other.labels) and not np.array_equal(drawn.image, other.image)


def test_the_registry_names_it():
    assert "medgen3d" in GENERATORS
    with pytest.raises(InputError, match="there are joint_ldm, medgen3d"):
        part("unit", "generator", generator="magic")

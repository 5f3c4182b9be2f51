"""What every generator promises, over all of ``GENERATORS``, with networks too small to be any good."""

import itertools
import json

import numpy as np
import pytest

from voxpair.cohorts.cohort import CohortWriter
from voxpair.cohorts.preprocess import PreprocessSettings
from voxpair.core.case import Case
from voxpair.core.errors import InputError, RunError
from voxpair.core.labels import LabelTable
from voxpair.core.run import RunFolder, Silent
from voxpair.generators import GENERATORS, generator_class
from voxpair.generators.domain_randomisation.generator import DomainRandomisationSettings
from voxpair.generators.joint_ldm.autoencoder import AutoencoderSettings
from voxpair.generators.joint_ldm.conditions import ConditionSettings
from voxpair.generators.joint_ldm.denoiser import DiffusionSettings
from voxpair.generators.joint_ldm.generator import JointLDMSettings, SamplingSettings
from voxpair.generators.joint_ldm.latents import LatentSettings
from voxpair.generators.medgen3d.generator import MedGen3DSettings
from voxpair.generators.medgen3d.generator import SamplingSettings as MedGen3DSampling
from voxpair.generators.medgen3d.image_sequence import ImageSequenceSettings
from voxpair.generators.medgen3d.mask_sequence import MaskSequenceSettings
from voxpair.generators.medgen3d.refiner import RefinerSettings, RefinerWalk
from voxpair.generators.medgen3d.slice_diffusion import SliceDiffusionSettings
from voxpair.training.loop import LoopSettings

BALLS = LabelTable.from_mapping("balls", {"background": 0, "shell": 2, "core": 5})
SPACING_MM = (2.0, 1.5, 3.0)


def loop(updates):
    return LoopSettings(
        updates=updates, batch_size=2, ema=0.5, precision="32-true", checkpoint_every_s=0, validate_every=2
    )


TINY = {
    "joint_ldm": JointLDMSettings(
        preprocess=PreprocessSettings(grid=(16, 16, 16), fit="crop_or_pad"),
        autoencoder=AutoencoderSettings(channels=(8, 8), stem_channels=4, latent_channels=2, gate=0.0, loop=loop(4)),
        latents=LatentSettings(copies=2),
        conditions=ConditionSettings(columns=("sex", "volume:core")),
        diffusion=DiffusionSettings(channels=(8, 8), attention=(False, False), head_channels=8, loop=loop(4)),
        sampling=SamplingSettings(steps=3, guidance=1.5),
    ),
    "medgen3d": MedGen3DSettings(
        preprocess=PreprocessSettings(grid=(16, 16, 16), fit="crop_or_pad"),
        mask_sequence=MaskSequenceSettings(
            depth_range=(0.75, 1.0), channels=(8, 8), attention=(False, False), head_channels=8, loop=loop(4)
        ),
        image_sequence=ImageSequenceSettings(
            width=4, halvings=1, blocks=2, scales=1, critic_width=4, critic_layers=1, clip=3, temporal_scales=1,
            loop=loop(4),
        ),
        refiner=RefinerSettings(
            diffusion=SliceDiffusionSettings(
                channels=(8, 8), attention=(False, False), head_channels=8, label_width=4, loop=loop(4)
            ),
        ),
        sampling=MedGen3DSampling(steps=1, guidance=1.5, refiner=RefinerWalk(steps=1)),
    ),
    "domain_randomisation": DomainRandomisationSettings(
        preprocess=PreprocessSettings(grid=(16, 16, 16), fit="crop_or_pad")
    ),
}  # fmt: skip
CONDITION = {"joint_ldm": {"sex": "F", "volume:core": 2.0}, "medgen3d": {"depth": 13}}
KNOWN = {"joint_ldm": "sex, volume:core", "medgen3d": "depth"}
WITHOUT_CONDITIONS = [name for name in GENERATORS if name not in CONDITION]
KILLED_AFTER = {
    "joint_ldm": (5, 5, 6, 6),  # of 8 cases, 4 updates, 6 + 2 latents, 4 updates: once amid each
    "medgen3d": (3, 5, 3, 3, 3),  # of 6 cases and three times 4 updates
    "domain_randomisation": (3, 5, 3),  # of 6 cases and the maps of 5, which are made from the first again
}


def ball_case(index, labelled=True):
    random = np.random.default_rng(index)
    distance = np.linalg.norm(np.indices((16, 16, 16)) - random.uniform(6, 9, (3, 1, 1, 1)), axis=0)
    radius = random.uniform(4, 6)
    labels = np.where(distance < radius / 2, 5, np.where(distance < radius, 2, 0)).astype(np.uint8)
    image = (100.0 * labels + random.normal(0, 20, labels.shape)).astype(np.float32)
    return Case(
        f"case_{index}",
        image,
        labels if labelled else None,
        np.diag((*SPACING_MM, 1)),
        BALLS,
        patient=f"patient_{index}",
        attributes={"sex": "FM"[index % 2]},
    )


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    writer = CohortWriter(tmp_path_factory.mktemp("balls") / "cohort", BALLS, "MRI")
    for index in range(8):
        writer.add(ball_case(index, labelled=index != 3), split="train" if index < 6 else "val")
    return writer.finish()


@pytest.fixture(scope="module", params=GENERATORS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def fitted(name, cohort, tmp_path_factory):
    model = generator_class(name)(TINY[name], cohort.label_table, cohort.modality)
    model.fit(cohort, RunFolder(tmp_path_factory.mktemp("run"), seed=1))
    return model


def same(a, b):
    return a.name == b.name and np.array_equal(a.image, b.image) and np.array_equal(a.labels, b.labels)


def test_samples_are_cases_in_the_promised_place(fitted, cohort):
    cases = list(fitted.sample(3, seed=0))
    assert [case.name for case in cases] == ["synthetic_00000", "synthetic_00001", "synthetic_00002"]
    for case in cases:
        assert isinstance(case, Case) and case.source == "synthetic" and case.patient == case.name
        assert case.image.shape == (16, 16, 16) and np.isfinite(case.image).all()
        assert set(np.unique(case.labels)) <= {0, *BALLS.values}
        assert case.spacing_mm == pytest.approx(SPACING_MM)
        assert case.provenance["weights"] == fitted.digest
    assert {case.provenance["index"] for case in cases} == {0, 1, 2}


def test_a_case_depends_on_its_index_not_on_how_many_are_asked_for(fitted):
    four, two, tail = (list(fitted.sample(n, seed=5, first=f)) for n, f in ((4, 0), (2, 0), (4, 2)))
    assert len(two) == len(tail) == 2
    assert all(map(same, four, two + tail))


def test_samples_stream(fitted):
    assert len(list(itertools.islice(fitted.sample(10**9, seed=0), 2))) == 2


def test_seeds_and_indices_differ(fitted):
    (a,), (b,), (_, c) = fitted.sample(1, seed=0), fitted.sample(1, seed=1), fitted.sample(2, seed=0)
    assert not np.array_equal(a.image, b.image) and not np.array_equal(a.image, c.image)


@pytest.mark.parametrize("name", CONDITION, indirect=True)
def test_conditions_reach_the_sample_and_wrong_ones_are_refused_at_once(fitted, name):
    (free,), (asked,) = fitted.sample(1, seed=0), fitted.sample(1, seed=0, condition=CONDITION[name])
    assert not np.array_equal(free.image, asked.image)
    assert asked.provenance["condition"] == CONDITION[name]
    with pytest.raises(InputError, match=f"known are {KNOWN[name]}"):
        fitted.sample(1, seed=0, condition={"age": 3})


@pytest.mark.parametrize("name", WITHOUT_CONDITIONS, indirect=True)
def test_a_generator_without_conditions_refuses_any_at_once(fitted, name):
    with pytest.raises(InputError, match=f"{name} takes no conditions, got sex"):
        fitted.sample(1, seed=0, condition={"sex": "F"})


@pytest.mark.parametrize("name", ["joint_ldm"], indirect=True)
def test_joint_ldm_tells_of_a_condition_in_its_case_and_refuses_a_value_it_has_not_seen(fitted):
    (asked,) = fitted.sample(1, seed=0, condition={"sex": "F"})
    assert asked.attributes["sex"] == "F"
    with pytest.raises(InputError, match="the training cases have F, M"):
        fitted.sample(1, seed=0, condition={"sex": "X"})


def test_saved_and_loaded_it_draws_the_same(fitted, name, tmp_path):
    fitted.save(tmp_path)
    loaded = generator_class(name).load(tmp_path, device="cpu")
    assert all(map(same, fitted.sample(2, seed=3), loaded.sample(2, seed=3)))
    assert loaded.digest == fitted.digest and loaded.label_table == BALLS and loaded.modality == "MRI"
    assert loaded.training_patients == [f"patient_{i}" for i in range(6)]
    assert not list(tmp_path.glob("*.pt")) + list(tmp_path.glob("*.pkl"))


def test_weights_exchanged_after_saving_are_noticed(fitted, name, tmp_path):
    fitted.save(tmp_path)
    content = json.loads((tmp_path / "generator.json").read_text())
    content["digest"] = "0" * 64
    (tmp_path / "generator.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"the weights in .* are not those"):
        generator_class(name).load(tmp_path, device="cpu")


def test_a_description_that_lacks_something_is_refused(fitted, name, tmp_path):
    fitted.save(tmp_path)
    content = json.loads((tmp_path / "generator.json").read_text())
    del content["modality"]
    (tmp_path / "generator.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"generator\.json was written by another version of voxpair"):
        generator_class(name).load(tmp_path, device="cpu")


class Kill(Silent):
    """Ends the fit after so many units of progress, as a pulled plug would."""

    def __init__(self, after):
        self.after = after

    def advance(self, steps=1, **numbers):
        self.after -= 1
        if self.after == 0:
            raise KeyboardInterrupt


def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(fitted, name, cohort, tmp_path):
    for after in KILLED_AFTER[name]:
        model = generator_class(name)(TINY[name], cohort.label_table, cohort.modality)
        with pytest.raises(KeyboardInterrupt):
            model.fit(cohort, RunFolder(tmp_path, seed=1, progress=Kill(after)))
    model.fit(cohort, RunFolder(tmp_path, seed=1))
    assert model.digest == fitted.digest
    again = generator_class(name)(TINY[name], cohort.label_table, cohort.modality)
    again.fit(cohort, RunFolder(tmp_path, seed=1, progress=Kill(1)))  # finished: nothing is left to do
    assert again.digest == fitted.digest


def test_steps_can_be_fitted_one_by_one_in_the_order_that_they_need(fitted, name, cohort, tmp_path):
    model = generator_class(name)(TINY[name], cohort.label_table, cohort.modality)
    with pytest.raises(InputError, match="no step 'dessert'"):
        model.fit(cohort, RunFolder(tmp_path, seed=1), steps=["dessert"])
    if name == "joint_ldm":
        with pytest.raises(InputError, match="first"):
            model.fit(cohort, RunFolder(tmp_path, seed=1), steps=model.steps[-1:])
    for step in model.steps if name == "joint_ldm" else reversed(model.steps):
        with pytest.raises(InputError, match="not fitted"):
            model.sample(1, seed=0)
        model.fit(cohort, RunFolder(tmp_path, seed=1), steps=[step])
    assert model.digest == fitted.digest


def test_a_cohort_that_is_not_split_is_refused(name, tmp_path):
    writer = CohortWriter(tmp_path / "unsplit", BALLS, "MRI")
    writer.add(ball_case(0))
    model = generator_class(name)(TINY[name], BALLS, "MRI")
    with pytest.raises(InputError, match="voxpair split"):
        model.fit(writer.finish(), RunFolder(tmp_path / "run"))


def test_a_run_folder_of_other_settings_is_refused(name, cohort, tmp_path):
    model = generator_class(name)(TINY[name], cohort.label_table, cohort.modality)
    with pytest.raises(KeyboardInterrupt):
        model.fit(cohort, RunFolder(tmp_path, seed=1, progress=Kill(10)))
    with pytest.raises(InputError, match="other settings or data"):
        model.fit(cohort, RunFolder(tmp_path, seed=2))


def test_joint_ldm_refuses_diffusion_on_an_autoencoder_that_loses_a_structure(cohort, tmp_path):
    strict = TINY["joint_ldm"].autoencoder.model_copy(update={"gate": 0.95})
    settings = TINY["joint_ldm"].model_copy(update={"autoencoder": strict})
    model = generator_class("joint_ldm")(settings, cohort.label_table, cohort.modality)
    with pytest.raises(RunError, match=r"does not keep (core|shell).*0\.95.*autoencoder\.loop\.updates"):
        model.fit(cohort, RunFolder(tmp_path, seed=1))
    assert not (tmp_path / "diffusion").exists()
    assert set(json.loads((tmp_path / "autoencoder" / "reconstruction.json").read_text())["dice"]) == {"core", "shell"}


def test_an_unknown_generator_is_refused():
    with pytest.raises(InputError, match="joint_ldm"):
        generator_class("magic")

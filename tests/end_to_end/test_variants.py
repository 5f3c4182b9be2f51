"""What the main job's defaults do not touch: the papers' recipe, pseudo-labels, the automatic plan."""

from dataclasses import replace

import numpy as np
import pytest

from voxpair import pipeline, stages
from voxpair.cli import main
from voxpair.cohorts.cohort import Cohort, CohortWriter
from voxpair.core.case import Case
from voxpair.core.errors import InputError
from voxpair.core.run import read_json
from voxpair.phantom.heart_cohort import PhantomSettings, heart_cases
from voxpair.presets import papers_way, plan, unit
from voxpair.stages import Session

SESSION = Session(device="cpu")


def turned(cohort):
    """The same cases, training and validation swapped."""
    swapped = {"train": "val", "val": "train"}
    return replace(cohort, records=tuple(replace(r, split=swapped[r.split]) for r in cohort.records))


@pytest.fixture(scope="module")
def half_labelled(tmp_path_factory):
    """Eight training hearts, of which four have labels, and two to validate."""
    folder = tmp_path_factory.mktemp("half") / "cohort"
    settings = PhantomSettings(grid=(16, 16, 16), field_of_view_mm=(150, 150, 130))
    writer = None
    for i, case in enumerate(heart_cases(settings, 10, seed=2)):
        writer = writer or CohortWriter(folder, case.label_table, "CT")
        labels = None if i < 4 else case.labels
        kept = Case(case.name, case.image, labels, case.affine, case.label_table, case.patient, "phantom")
        writer.add(kept, split="val" if i > 7 else "train")
    return writer.finish()


def test_the_papers_recipe_runs_from_scans_to_report(tmp_path):
    small = {
        "generator": {"diffusion": {"levels": 20}, "sampling": {"steps": 20}},
        "segmentation": {"validation": "real_patients", "loop": {"validate_every": 3}},
        "protocols": ["ours"],
    }
    recipe = papers_way(unit())
    settings = plan("unit", _laid_over(recipe, small), [])
    assert settings.generator.autoencoder.label_code == "rgb" and settings.generator.sampler == "ddpm"
    report = pipeline.demo(tmp_path / "run", settings, SESSION)
    assert report.exists() and len(Cohort.open(tmp_path / "run/synthetic")) == 18


def _laid_over(below, above):
    both = dict(below)
    for key, value in above.items():
        both[key] = _laid_over(both.get(key, {}), value) if isinstance(value, dict) else value
    return both


def test_images_without_labels_teach_the_generator_and_pseudo_labels_replace_them(half_labelled, tmp_path):
    settings = plan("unit")
    segmenter = stages.segment_fit([half_labelled], tmp_path / "segmenter", settings.segmentation, SESSION)
    plain = stages.fit(half_labelled, tmp_path / "plain", settings.generator, SESSION)
    with_labels = stages.fit(half_labelled, tmp_path / "pseudo", settings.generator, SESSION, pseudo_labels=segmenter)
    facts = [read_json(run / "model/generator.json")["facts"] for run in (plain, with_labels)]
    assert all(len(fact["training_patients"]) == 8 for fact in facts)
    made = Cohort.open(tmp_path / "pseudo/pseudo_labels")
    assert set(made.names) == set(half_labelled.split("train").unlabelled().names)
    assert (
        read_json(plain / "model/generator.json")["digest"] != read_json(with_labels / "model/generator.json")["digest"]
    )
    pair = stages.sample(with_labels, tmp_path / "pair", 1, SESSION)
    assert set(pair.manifest["training_patients"]) == set(half_labelled.split("train").patients)
    with pytest.raises(InputError, match="has labels already"):
        stages.fit(half_labelled.labelled(), tmp_path / "no", settings.generator, SESSION, pseudo_labels=segmenter)


class Listener:
    """A progress that keeps what is said."""

    def __init__(self):
        self.said = []

    def start(self, description, total, done=0): ...

    def advance(self, steps=1, **numbers): ...

    def say(self, message):
        self.said.append(message)


def test_cases_without_labels_are_never_used_or_left_out_in_silence(half_labelled, tmp_path):
    listener, settings = Listener(), plan("unit")
    session = replace(SESSION, progress=listener)
    stages.fit(half_labelled, tmp_path / "generator", settings.generator, session)
    assert any("4 of 8 training cases have no labels" in line and "images alone" in line for line in listener.said)
    stages.segment_fit([half_labelled], tmp_path / "segmenter", settings.segmentation, session)
    assert any("4 training cases have no labels and are left out" in line for line in listener.said)


def test_a_generator_that_has_seen_the_validation_patients_is_refused(half_labelled, tmp_path):
    settings = plan("unit")
    synthetic = stages.sample(
        stages.fit(half_labelled, tmp_path / "generator", settings.generator, SESSION), tmp_path / "made", 2, SESSION
    )
    with pytest.raises(InputError, match="share 8 patients"):
        stages.segment_fit([turned(half_labelled), synthetic], tmp_path / "leaky", settings.segmentation, SESSION)


def test_a_teacher_that_has_seen_the_validation_patients_is_refused_and_others_are_named(half_labelled, tmp_path):
    settings, swapped = plan("unit"), turned(half_labelled)
    teacher = stages.segment_fit([swapped], tmp_path / "teacher", settings.segmentation, SESSION)
    with pytest.raises(InputError, match=rf"{tmp_path}/teacher and .* share 2 patients"):
        stages.fit(half_labelled, tmp_path / "leaky", settings.generator, SESSION, pseudo_labels=teacher)
    assert not (tmp_path / "leaky").exists()

    train_alone = replace(half_labelled, records=half_labelled.split("train").records)
    pupil = stages.fit(train_alone, tmp_path / "pupil", settings.generator, SESSION, pseudo_labels=teacher)
    pairs = stages.sample(pupil, tmp_path / "pairs", 1, SESSION)
    assert set(pairs.manifest["training_patients"]) == set(half_labelled.patients)  # its own, and the teacher's
    with pytest.raises(InputError, match="share 2 patients"):
        stages.segment_fit([half_labelled, pairs], tmp_path / "learner", settings.segmentation, SESSION)


def test_a_segmenter_whose_validation_cases_were_others_is_not_taken_for_done(half_labelled, tmp_path):
    settings = plan("unit").segmentation
    stages.segment_fit([half_labelled], tmp_path / "segmenter", settings, SESSION)
    records = tuple(replace(r, split="test") if r.split == "val" else r for r in half_labelled.records)
    with pytest.raises(InputError, match=r"made differently \(inputs.validation was"):
        stages.segment_fit([replace(half_labelled, records=records)], tmp_path / "segmenter", settings, SESSION)


def test_pairs_are_drawn_as_asked_and_fewer_than_there_are_is_a_view(half_labelled, tmp_path):
    settings = plan("unit", None, ["generator.conditions.columns=['volume:LV']"])
    generator = stages.fit(half_labelled, tmp_path / "generator", settings.generator, SESSION)
    asked = {"condition": {"volume:LV": 60.0}}
    plain = stages.sample(generator, tmp_path / "plain", 2, SESSION, **asked)
    strong = stages.sample(generator, tmp_path / "strong", 2, SESSION, sampling=["guidance=4", "steps=5"], **asked)
    assert strong.manifest["sampling"]["guidance"] == 4 and strong.manifest["sampling"]["steps"] == 5
    assert not np.array_equal(plain.read(plain.names[0]).image, strong.read(strong.names[0]).image)
    with pytest.raises(InputError, match=r"made differently.*guidance"):
        stages.sample(generator, tmp_path / "strong", 2, SESSION, sampling=["guidance=2", "steps=5"], **asked)
    with pytest.raises(InputError, match="guidance"):
        stages.sample(generator, tmp_path / "weak", 2, SESSION, sampling=["guidance=0.5"], **asked)
    assert stages.sample(generator, tmp_path / "plain", 1, SESSION, **asked).names == plain.names[:1]
    assert len(Cohort.open(tmp_path / "plain")) == 2


def test_what_a_segmenter_begins_with_must_not_have_seen_the_validation_patients(half_labelled, tmp_path):
    settings = plan("unit")
    other = turned(half_labelled)
    encoder = stages.pretrain([other], tmp_path / "encoder", settings.pretraining, SESSION)
    start = stages.segment_fit([other], tmp_path / "start", settings.segmentation, SESSION)
    for what in ({"encoder": encoder}, {"start": start}):
        with pytest.raises(InputError, match=rf"{tmp_path}/{next(iter(what))} and .* share 2 patients"):
            stages.segment_fit([half_labelled], tmp_path / "leaky", settings.segmentation, SESSION, **what)
        assert not (tmp_path / "leaky").exists()
    begun = stages.segment_fit([half_labelled], tmp_path / "fine", settings.segmentation, SESSION)
    further = stages.segment_fit([half_labelled], tmp_path / "further", settings.segmentation, SESSION, start=begun)
    assert stages.patients_behind(further) == set(half_labelled.split("train").labelled().patients)


def test_the_automatic_plan_fits_the_cohort_and_the_networks(half_labelled):
    settings = plan("auto", cohort=half_labelled)
    assert settings.generator.preprocess.grid == (16, 16, 16) == settings.segmentation.preprocess.grid
    assert settings.generator.autoencoder.gate == 0.7 and settings.generator.preprocess.fit == ("resample",) * 3
    assert settings.segmentation.loop.validate_every and settings.segmentation.loop.patience == 10
    painted = plan("auto", cohort=half_labelled, generator="medgen3d").generator
    assert painted.preprocess == settings.generator.preprocess
    with pytest.raises(InputError, match="import the scans first"):
        plan("auto")


def test_report_and_evaluate_are_verbs_of_their_own(half_labelled, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["report", str(tmp_path / "nowhere")])
    assert end.value.code == 2 and "nowhere" in capsys.readouterr().err


def test_pairs_that_break_a_rule_teach_no_segmenter(tmp_path):
    wanted = {
        "cases": {"phantom": 13, "train": 9, "val": 2, "test": 2},
        "select": {"rules": ["intensity", "agreement"], "margin": 30.0, "agreement_margin": 1.0},
        "synthetic_per_real": 0.3,
        "protocols": ["ours"],
    }
    settings = plan("unit", wanted)
    pipeline.demo(tmp_path / "run", settings, SESSION)
    selection = read_json(tmp_path / "run/synthetic/manifest.json")["selection"]
    assert selection["accepted"] == 3 == len(Cohort.open(tmp_path / "run/synthetic"))
    judge = read_json(tmp_path / "run/segmenters/baseline_equal_updates/stage.json")["inputs"]
    assert judge["encoder"] == "" and len(judge["cohorts"]) == 1


def test_the_other_generator_goes_the_same_way(tmp_path):
    settings = plan(
        "unit", {"protocols": ["ours"], "cases": {"phantom": 8, "train": 4, "val": 2, "test": 2}}, generator="medgen3d"
    )
    report = pipeline.demo(tmp_path / "run", settings, SESSION)
    assert "medgen3d" in (tmp_path / "run/synthetic/manifest.json").read_text()
    assert "Mask sequence" in report.read_text(encoding="utf-8")
    with pytest.raises(InputError, match="medgen3d, which encodes no scans"):
        stages.reconstruct(tmp_path / "run/generator", tmp_path / "run/cohort", tmp_path / "back", SESSION)

"""The audit finds what was planted, leaves strangers alone, and says so where it could not know."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage, stats

from voxpair.cohorts.cohort import Cohort, CohortWriter
from voxpair.core.case import Case
from voxpair.core.errors import InputError, RunError
from voxpair.core.labels import CARDIAC8, HIPPOCAMPUS, LabelTable
from voxpair.core.run import RunFolder
from voxpair.evaluation.audit import memorisation
from voxpair.evaluation.audit.copy_detector import CopyDetector, DetectorSettings, field_of_view_mm, stranger_threshold
from voxpair.evaluation.audit.disguises import DISGUISES, disguise
from voxpair.evaluation.audit.embedding import EmbeddingSettings
from voxpair.evaluation.audit.memorisation import AuditSettings, audit, membership_auc
from voxpair.phantom.heart_cohort import PhantomSettings, heart_cases
from voxpair.training.loop import LoopSettings

FAST = LoopSettings(updates=40, batch_size=16, precision="32-true", learning_rate=2e-3)
DETECTOR = DetectorSettings(grid=(16, 16, 16), embedding=EmbeddingSettings(loop=FAST))
SETTINGS = AuditSettings(detector=DETECTOR, planted=1, pictures=3)


def write(folder, cases, source="real", manifest=None, table=CARDIAC8, modality="CT") -> Cohort:
    writer = CohortWriter(folder, table, modality)
    for case in cases:
        writer.add(replace(case, source=source))
    return writer.finish(manifest)


@pytest.fixture(scope="module")
def hearts(tmp_path_factory):
    """Training (12), reference (12) and other hearts (8), and a run folder in which the detector is fitted once."""
    folder = tmp_path_factory.mktemp("hearts")
    cases = list(heart_cases(PhantomSettings(grid=(16, 16, 16)), 32, seed=1))
    training, reference = write(folder / "training", cases[:12]), write(folder / "reference", cases[12:24])
    return training, reference, cases[24:], RunFolder(folder / "run")


@pytest.fixture(scope="module")
def audited(hearts, tmp_path_factory):
    """Three training cases in disguise among eight strangers."""
    training, reference, strangers, run = hearts
    folder = tmp_path_factory.mktemp("audited")
    kinds = ("exact", "shift+noise", "flip+blur")
    planted = [disguise(training.read(training.names[i]), kind, i) for i, kind in enumerate(kinds)]
    manifest = {"training_patients": list(training.patients)}
    synthetic = write(folder / "synthetic", [*planted, *strangers], "synthetic", manifest)
    return audit(synthetic, training, reference, folder / "out", SETTINGS, run), synthetic, folder / "out"


def test_planted_copies_are_found_and_strangers_are_not(hearts, audited):
    training = hearts[0]
    result, synthetic, _ = audited
    found = {copy["case"]: copy for copy in result.copies}
    for name, original in zip(synthetic.names[:3], training.records):
        assert (found[name]["nearest"], found[name]["patient"]) == (original.name, original.patient)
        assert found[name]["score"] > found[name]["threshold"]
        assert set(found[name]["scores"]) == {"embedding", "voxels", "labels"}
    assert len(found) <= 3 + 2
    assert result.patients_copied >= 3 and result.share_of_patients_copied == result.patients_copied / 12
    assert result.excess_p_value < 0.3 and 0 < result.expected_false_alarms < 3  # eleven cases show no more


def test_the_control_found_the_easy_disguises(audited):
    control = audited[0].control
    assert control["passed"] and set(control["by_disguise"]) == set(DISGUISES)
    assert control["planted"] == len(DISGUISES) == sum(row["planted"] for row in control["by_disguise"].values())
    assert control["found"] == sum(row["found"] for row in control["by_disguise"].values())
    audited[0].check()


def test_the_files_hold_what_the_report_reads(audited):
    _, synthetic, out = audited
    content = json.loads((out / "audit.json").read_text())
    wanted = {"copies", "patients_copied", "patients", "share_of_patients_copied", "synthetic", "expected_false_alarms"}
    wanted |= {"membership_auc", "membership_interval", "detectors", "control", "warnings", "settings", "versions"}
    assert wanted <= set(content)
    for row in content["detectors"].values():
        assert set(row) == {"threshold", "false_alarm_rate", "nearest_synthetic", "nearest_reference"}
        assert len(row["nearest_synthetic"]) == 11 and len(row["nearest_reference"]) == 12
        assert all(-1 <= value <= 1 for value in row["nearest_synthetic"] + row["nearest_reference"])
    pictures = np.load(out / "copies.npz")
    names = pictures["names"].tolist()
    assert set(names) <= set(synthetic.names) and len(names) == 3 and pictures["spacing"].shape == (3, 3)
    for name, score in zip(names, pictures["scores"]):
        image, near = pictures[f"{name}_image"], pictures[f"{name}_nearest"]
        assert image.shape == near.shape == pictures[f"{name}_labels"].shape == (32, 32, 32)
        assert score > 0.5 and min(image.min(), near.min()) >= 0 and max(image.max(), near.max()) <= 1
    exact = synthetic.names[0]
    assert np.corrcoef(pictures[f"{exact}_image"].ravel(), pictures[f"{exact}_nearest"].ravel())[0, 1] > 0.99


def test_a_detector_takes_one_case_at_a_time_on_any_grid(hearts):
    training, reference, strangers, run = hearts
    detector = CopyDetector.fit(training, reference, DETECTOR, run)
    case = training.read(training.names[4])
    exact = detector.match(case)
    assert exact.nearest == case.name and exact.is_copy and exact.score == pytest.approx(1.0, abs=1e-3)
    finer = np.diag([0.5, 0.4, 0.5, 1.0])
    image = ndimage.zoom(case.image, (2, 2.5, 2), order=1, grid_mode=True, mode="nearest")
    elsewhere = Case("finer", image[:, ::-1], None, case.affine @ finer @ np.diag([1, -1, 1, 1]), CARDIAC8, "finer")
    found = detector.match(elsewhere)
    assert found.nearest == case.name and found.is_copy and "labels" not in found.scores
    assert sum(detector.match(stranger).is_copy for stranger in strangers) <= 2


def test_training_cases_handed_out_as_synthetic_are_all_copies(hearts, tmp_path):
    training, reference, _, run = hearts
    cases = [replace(case, labels=None) for case in training]
    handed = write(tmp_path / "synthetic", cases, "synthetic", {"training_patients": list(training.patients)})
    result = audit(handed, training, reference, tmp_path / "out", SETTINGS, run)
    assert len(result.copies) == 12 and result.share_of_patients_copied == 1.0
    assert result.membership_auc > 0.99 and result.excess_p_value < 1e-6
    assert max(result.distance_ratios["synthetic"]) < 0.05
    assert result.detectors["labels"]["nearest_synthetic"] == [None] * 12
    assert any("no labels" in warning for warning in result.warnings)


def test_one_synthetic_case_with_other_labels_and_no_manifest(hearts, tmp_path):
    training, reference, strangers, run = hearts
    table = LabelTable.from_mapping("other", {"background": 0, "heart": 1})
    case = replace(strangers[0], labels=(strangers[0].labels > 0).astype(np.uint8), label_table=table)
    one = write(tmp_path / "synthetic", [case], "synthetic", table=table)
    result = audit(one, training, reference, tmp_path / "out", SETTINGS, run)
    assert result.synthetic == 1 and result.detectors["labels"]["nearest_synthetic"] == [None]
    assert any("label tables" in w for w in result.warnings) and any("training_patients" in w for w in result.warnings)


def test_a_control_that_finds_nothing_voids_the_audit(hearts, audited, tmp_path, monkeypatch):
    training, reference, strangers, run = hearts
    monkeypatch.setattr(memorisation, "disguise", lambda case, kind, seed: strangers[seed % len(strangers)])
    result = audit(audited[1], training, reference, tmp_path, SETTINGS, run)
    assert result.copies == audited[0].copies and result.detectors == audited[0].detectors  # nothing else changed
    assert json.loads((tmp_path / "audit.json").read_text())["control"]["passed"] is False
    with pytest.raises(RunError, match=r"planted to test it \(found: exact 0 of 1"):
        result.check()


def test_what_cannot_be_audited_is_refused(hearts, tmp_path):
    training, reference, strangers, run = hearts
    made = write(tmp_path / "made", strangers[:1], "synthetic", {"training_patients": [reference.patients[0]]})
    with pytest.raises(InputError, match="learnt from 1 patients of the reference"):
        audit(made, training, reference, tmp_path, SETTINGS, run)
    with pytest.raises(InputError, match="share"):
        CopyDetector.fit(training, training, DETECTOR, run)
    with pytest.raises(InputError, match=r"3 reference cases.*8"):
        CopyDetector.fit(training, reference.subset(reference.names[:3]), DETECTOR, run)
    with pytest.raises(InputError, match="MRI"):
        audit(replace(made, modality="MRI"), training, reference, tmp_path, SETTINGS, run)


def test_patients_that_were_not_given_are_named_as_not_looked_for(hearts, tmp_path):
    training, reference, strangers, _ = hearts
    seen = [*training.patients[:7], "someone_else"]
    made = write(tmp_path / "made", strangers[:1], "synthetic", {"training_patients": seen})
    said = " ".join(memorisation.check_cohorts(made, training, reference))
    assert "Copies of 1 training patients were not looked for" in said and "has not learnt from 5" in said


@pytest.mark.parametrize("count, share", [(43, 0.025), (100, 0.05), (12, 0.2)])
def test_a_stranger_exceeds_the_threshold_as_rarely_as_promised(count, share):
    draws = np.random.default_rng(0).normal(size=(20000, count + 1))
    rate = np.mean([row[-1] > stranger_threshold(row[:-1], share) for row in draws])
    promised = max(share, 1 / (count + 1))
    assert promised - 1 / (count + 1) - 0.006 < rate < promised + 0.006


def test_membership_is_mann_whitney_and_one_half_for_equals():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.5, 1, 40).round(1), rng.normal(0, 1, 30).round(1)
    names = [f"a{i}" for i in range(40)], [f"b{i}" for i in range(30)]
    auc, (low, high) = membership_auc(a, b, names, seed=0)
    assert auc == pytest.approx(stats.mannwhitneyu(a, b).statistic / 1200) and low < auc < high
    assert membership_auc(np.ones(9), np.ones(8), (names[0][:9], names[1][:8]), seed=0) == (0.5, [0.5, 0.5])
    # two scans of one patient are one patient: the interval must not shrink
    twice = membership_auc(np.repeat(a, 4), b, (np.repeat(names[0], 4), names[1]), seed=0)[1]
    assert twice[1] - twice[0] > 0.9 * (high - low)


def test_every_disguise_changes_what_it_says(hearts):
    case = hearts[0].read(hearts[0].names[0])
    for kind in DISGUISES:
        one, again, other = (disguise(case, kind, seed) for seed in (0, 0, 1))
        assert np.array_equal(one.image, again.image) and one.image.shape == case.image.shape
        assert np.array_equal(one.image, case.image) == (kind == "exact")
        assert np.array_equal(one.image, other.image) == (kind in ("exact", "flip", "blur", "flip+blur"))
        moved = not np.array_equal(one.labels, case.labels)
        assert moved == any(word in kind for word in ("shift", "rotation", "flip", "deformation"))
    assert np.array_equal(disguise(case, "flip", 0).labels, case.labels[::-1])
    with pytest.raises(InputError, match="costume"):
        disguise(case, "costume", 0)


def test_millimetres_are_kept_where_asked(hearts):
    training = hearts[0]
    settings = DETECTOR.model_copy(update={"fit": ("crop_or_pad",) * 3})
    assert field_of_view_mm(training) == pytest.approx([190, 190, 155], rel=1e-3)
    spacing = memorisation._same_view(settings, training, training).field_of_view_mm
    assert spacing == pytest.approx([190, 190, 155], rel=1e-3)


def test_hippocampi(shared_data, tmp_path):
    files = sorted((shared_data / "msd_hippocampus" / "imagesTr").glob("hippocampus_*.nii.gz"))
    files = [files[i] for i in np.random.default_rng(0).permutation(len(files))[:46]]
    cases = []
    for path in files:
        image, labels = nib.load(path), nib.load(path.parents[1] / "labelsTr" / path.name)
        name = path.name.removesuffix(".nii.gz")
        seen, drawn = image.get_fdata(dtype=np.float32), np.asarray(labels.dataobj).astype(np.uint8)
        cases.append(Case(name, seen, drawn, image.affine, HIPPOCAMPUS, name))
    parts = (cases[:20], cases[20:36])
    training, reference = (
        write(tmp_path / str(i), part, table=HIPPOCAMPUS, modality="MRI") for i, part in enumerate(parts)
    )
    copies = [disguise(case, kind, 7) for case, kind in zip(cases, ("noise", "rotation+rescale", "deformation"))]
    manifest = {"training_patients": list(training.patients)}
    made = write(tmp_path / "made", [*copies, *cases[36:]], "synthetic", manifest, HIPPOCAMPUS, "MRI")
    settings = SETTINGS.model_copy(
        update={"detector": DETECTOR.model_copy(update={"grid": (24, 24, 24), "fit": ("crop_or_pad",) * 3})}
    )
    result = audit(made, training, reference, tmp_path / "out", settings, RunFolder(tmp_path / "run"))
    found = {copy["case"] for copy in result.copies}
    assert {copy.name for copy in copies} <= found and len(
        found
    ) <= 3 + 3  # of ten strangers; with 16 reference cases one in eight is expected
    assert result.control["passed"]

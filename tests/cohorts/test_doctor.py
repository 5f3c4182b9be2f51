"""The doctor: one look names every problem, and the mended copy holds only what is certain."""

import csv
import json

import numpy as np
import pytest

from voxpair.cohorts import volumes
from voxpair.cohorts.cohort import Cohort, CohortWriter
from voxpair.cohorts.doctor import Finding, check, fix, write_findings
from voxpair.core.case import Case
from voxpair.core.errors import InputError
from voxpair.core.labels import ACDC

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
SHAPE = (8, 9, 10)
LABELS = np.zeros(SHAPE, np.uint8)
LABELS[2:4, 2:7, 2:8], LABELS[4:5, 2:7, 2:8], LABELS[5:7, 2:7, 2:8] = 1, 2, 3  # nothing touches the border


def image(i):
    return np.random.default_rng(i).normal(100, 30, SHAPE).astype(np.float32)


@pytest.fixture
def cohort(tmp_path):
    """Six cases with nothing wrong with them."""
    writer = CohortWriter(tmp_path / "cohort", ACDC, "MRI")
    for i in range(6):
        writer.add(Case(f"c{i}", image(i), LABELS, AFFINE, ACDC, f"p{i}", attributes={"age": 40 + i}), split="train")
    return writer.finish()


def put_labels(cohort, name, labels, affine=AFFINE):
    volumes._write(cohort.folder / "labelsTr" / f"{name}.nii.gz", labels, affine)


def put_image(cohort, name, values, affine=AFFINE):
    volumes.write_image(cohort.folder / "imagesTr" / f"{name}_0000.nii.gz", values, affine)


def found(cohort, case):
    return [(f.severity, f.what, f.fixable) for f in check(cohort) if f.case == case]


def test_a_sound_cohort_has_no_findings_and_its_mended_copy_is_itself(cohort, tmp_path):
    assert check(cohort) == check(cohort.folder) == []
    assert fix(cohort, tmp_path / "copy") == []
    assert Cohort.open(tmp_path / "copy").digest() == cohort.digest()


def _nan(cohort):
    values = image(0)
    values[0, 0, :4] = np.nan
    volumes._write(cohort.folder / "imagesTr" / "c0_0000.nii.gz", values, AFFINE)


def _cut_short(cohort):
    path = cohort.folder / "imagesTr" / "c0_0000.nii.gz"
    path.write_bytes(path.read_bytes()[:-40])


def _moved(voxels):
    affine = AFFINE.copy()
    affine[0, 3] = voxels
    return affine


SHEARED = AFFINE + np.array([[0, 0, 0.3, 0], *np.zeros((3, 4))])


@pytest.mark.parametrize(
    ("damage", "severity", "what", "fixable"),
    [
        (_nan, "error", "has 4 voxels that are NaN", True),
        (_cut_short, "error", "cannot read", True),
        (lambda c: put_labels(c, "c0", LABELS[:-1]), "error", "the labels have shape (7, 9, 10)", True),
        (lambda c: put_labels(c, "c0", LABELS, _moved(0.05)), "error", "lie up to 0.05 voxels apart", True),
        (lambda c: put_labels(c, "c0", LABELS, _moved(2)), "error", "lie up to 2 voxels apart", True),
        (lambda c: put_labels(c, "c0", LABELS * 5), "error", "label value 5 (60 voxels) is not in", True),
        (lambda c: put_labels(c, "c0", LABELS * np.float32(0.99)), "error", "not whole numbers", True),
        (lambda c: put_labels(c, "c0", LABELS * np.float32(0.5)), "error", "not whole numbers", True),
        (lambda c: put_labels(c, "c0", LABELS * 0), "warning", "the labels are empty", False),
        (lambda c: put_labels(c, "c0", LABELS % 3), "warning", "structures without a voxel: LV", False),
        (
            lambda c: put_labels(c, "c0", np.roll(LABELS, 1, 0)),
            "note",
            "cut off by the border of the volume: LV",
            False,
        ),
        (lambda c: put_image(c, "c0", image(0) * 0 + 7), "error", "every voxel of the image is 7", True),
        (lambda c: put_image(c, "c0", image(0) * 50), "note", "the intensities span", False),
        (lambda c: put_image(c, "c0", image(0), SHEARED), "warning", "not at right angles", False),
        (lambda c: put_image(c, "c0", image(1)), "none", "", False),
    ],
)
def test_each_damage_is_found_and_named(cohort, damage, severity, what, fixable):
    damage(cohort)
    if severity == "none":  # a copy is found at the later of the two cases
        assert found(cohort, "c0") == []
        assert found(cohort, "c1") == [("error", "the image is the same as that of c0, of another patient", True)]
        return
    hits = [f for f in found(cohort, "c0") if what in f[1]]
    assert [(f[0], f[2]) for f in hits] == [(severity, fixable)]
    assert all(finding.case == "c0" for finding in check(cohort))  # and the sound cases stay so


def test_offsets_below_a_hundredth_of_a_voxel_are_rounding(cohort):
    put_labels(cohort, "c0", LABELS, _moved(1e-3))
    assert check(cohort) == []


def test_spacing_unlike_the_others_is_a_warning_whatever_the_axis(cohort):
    affine = AFFINE[:, [2, 1, 0, 3]]  # the same spacings on other axes are no outlier
    put_image(cohort, "c0", image(0), affine)
    put_labels(cohort, "c0", LABELS, affine)
    assert found(cohort, "c0") == []
    put_image(cohort, "c0", image(0), np.diag([1, 1, 8, 1]))
    put_labels(cohort, "c0", LABELS, np.diag([1.0, 1, 8, 1]))
    assert found(cohort, "c0")[-1][:2] == (
        "warning", "the spacing is 1 x 1 x 8 mm (sorted), that of the median case 1 x 1 x 2 mm",
    )  # fmt: skip


def test_ct_without_air_is_suspicious(tmp_path):
    writer = CohortWriter(tmp_path, ACDC, "CT")
    writer.add(Case("hu", image(0) - 1000, None, AFFINE, ACDC, "a"))
    writer.add(Case("shifted", image(1).clip(0), None, AFFINE, ACDC, "b"))
    assert [(f.case, f.severity) for f in check(writer.finish())] == [("shifted", "warning")]


def test_a_copy_within_one_patient_is_only_a_warning(tmp_path):
    writer = CohortWriter(tmp_path, ACDC, "MRI")
    for name in ("a", "b"):
        writer.add(Case(name, image(0), None, AFFINE, ACDC, "one"))
    assert [(f.case, f.severity, f.what) for f in check(writer.finish())] == [
        ("b", "warning", "the image is the same as that of a")
    ]


def test_a_structure_that_no_case_has(cohort):
    for name in cohort.names:
        put_labels(cohort, name, np.where(LABELS == 3, 0, LABELS).astype(np.uint8))
    assert [f.what for f in check(cohort) if f.case == ""] == ["no case has structure LV"]


def test_many_problems_are_found_in_one_look_even_where_the_cohort_does_not_open(cohort):
    _nan(cohort)
    put_labels(cohort, "c1", LABELS * 5)
    (cohort.folder / "labelsTr" / "c2.nii.gz").unlink()
    (cohort.folder / "imagesTr" / "c3_0000.nii.gz").unlink()
    with pytest.raises(InputError):
        Cohort.open(cohort.folder)
    errors = {f.case for f in check(cohort.folder) if f.severity == "error"}
    assert errors == {"c0", "c1", "c2", "c3"}


def test_fix_does_only_what_is_certain_and_says_it(cohort, tmp_path):
    _nan(cohort)
    put_labels(cohort, "c1", LABELS * np.float32(0.99))
    put_labels(cohort, "c2", LABELS, _moved(0.05))
    put_image(cohort, "c4", image(3))
    (cohort.folder / "imagesTr" / "c5_0000.nii.gz").unlink()
    done = fix(cohort.folder, tmp_path / "copy")
    copy = Cohort.open(tmp_path / "copy")
    assert copy.names == ("c1", "c2", "c3") and check(copy) == []
    for case in copy:
        np.testing.assert_array_equal(case.labels, LABELS)
        np.testing.assert_array_equal(case.affine, AFFINE)
    assert copy.split_counts == {"train": 3} and copy.read("c1").attributes == {"age": 41.0}
    assert copy.notes == tuple(done)
    for start in ("c0: left out (", "c1: labels rounded", "c2: labels got the image's affine (0.05 voxels", "c5: left"):
        assert sum(line.startswith(start) for line in done) >= 1
    assert "c4: left out (the same image as c3)" in done
    assert not (cohort.folder / "cases.jsonl").exists()


@pytest.mark.parametrize("labels", [LABELS * np.float32(0.5), LABELS * 5, LABELS[:-1]])
def test_fix_leaves_out_what_it_would_have_to_guess(cohort, tmp_path, labels):
    put_labels(cohort, "c0", labels)
    (line,) = fix(cohort, tmp_path / "copy")
    assert line.startswith("c0: left out (") and Cohort.open(tmp_path / "copy").names == cohort.names[1:]


def test_fix_keeps_what_made_a_synthetic_cohort(tmp_path):
    writer = CohortWriter(tmp_path / "a", ACDC, "MRI")
    writer.add(Case("s", image(0), LABELS, AFFINE, ACDC, "s", "synthetic", provenance={"seed": 3}))
    cohort = writer.finish({"training_patients": ["p"]})
    fix(cohort, tmp_path / "b")
    assert dict(Cohort.open(tmp_path / "b").manifest) == dict(cohort.manifest)


def test_fix_keeps_the_maps_beside_the_labels_of_the_cases_it_keeps(tmp_path):
    writer = CohortWriter(tmp_path / "a", ACDC, "CT")
    clean = tmp_path / "a" / "labelsClean"
    clean.mkdir()
    for i in range(2):
        writer.add(Case(f"c{i}", image(i), LABELS, AFFINE, ACDC, f"p{i}"))
        volumes.write_labels(clean / f"c{i}.nii.gz", LABELS, AFFINE)
    cohort = writer.finish({"other_labels": ["labelsClean"]})
    put_image(cohort, "c1", np.zeros(SHAPE, np.float32))
    (line,) = fix(cohort, tmp_path / "b")
    assert line.startswith("c1: left out")
    (kept,) = (tmp_path / "b" / "labelsClean").iterdir()
    assert kept.name == "c0.nii.gz" and kept.read_bytes() == (clean / kept.name).read_bytes()


def test_fix_never_writes_onto_its_source(cohort):
    with pytest.raises(InputError, match="is the cohort itself; the mended copy needs another folder"):
        fix(cohort, cohort.folder, overwrite=True)
    assert check(cohort) == []


def test_findings_are_written_as_a_table_or_json(tmp_path):
    findings = [Finding("a", "error", 'what, with "comma"', "advice", True), Finding("", "note", "w", "a")]
    write_findings(findings, tmp_path / "f.json")
    assert [Finding(**row) for row in json.loads((tmp_path / "f.json").read_text())] == findings
    write_findings(findings, tmp_path / "f.csv")
    with (tmp_path / "f.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0]["what"] == 'what, with "comma"' and rows[0]["fixable"] == "True" and len(rows) == 2
    with pytest.raises(InputError, match=r"written as \.csv or \.json"):
        write_findings(findings, tmp_path / "f.txt")


def test_acdc_holds_one_scan_under_two_patients(tmp_path, shared_data):
    writer = CohortWriter(tmp_path, ACDC, "MRI")
    for name in ("patient074", "patient075", "patient076"):
        values, affine, _ = volumes.read_image(shared_data / "acdc" / "images" / f"{name}.nii.gz")
        writer.add(Case(name, values, None, affine, ACDC, name))
    assert [(f.case, f.severity) for f in check(writer.finish())] == [("patient076", "error")]

"""The cohort folder: round trip, refusals, and a writer that survives kills."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from voxpair.cohorts import volumes
from voxpair.cohorts.cohort import Cohort, CohortWriter
from voxpair.cohorts.records import read_cases_csv
from voxpair.core.case import Case
from voxpair.core.errors import InputError
from voxpair.core.labels import ACDC, HIPPOCAMPUS

AFFINE = np.array([[0, 0, 2, 5], [-1.5, 0, 0, 6], [0, 1, 0, 7], [0, 0, 0, 1.0]])


def make_case(name, *, patient=None, labelled=True, value=0, **fields):
    image = np.random.default_rng(value).integers(-1000, 1000, (4, 5, 6)).astype(np.float32)
    labels = np.arange(120).reshape(4, 5, 6).astype(np.uint8) % 4 if labelled else None
    return Case(name, image, labels, AFFINE, ACDC, patient or name, **fields)


def make_cohort(folder, count=3, **manifest):
    writer = CohortWriter(folder, ACDC, "CT")
    for i in range(count):
        writer.add(make_case(f"c{i}", patient=f"p{i}", value=i, attributes={"age": 40 + i, "sex": "F"}), "train")
    return writer.finish(manifest or None)


def test_round_trip_of_cases_with_attributes_provenance_and_geometry(tmp_path):
    writer = CohortWriter(tmp_path / "with space é", ACDC, "CT")
    first = make_case(
        "a", patient='O"Neil, X', source="synthetic", attributes={"age": np.float32(62), "sex": "F", "none": None},
        provenance={"seed": 7, "condition": {"sex": "F"}, "latent": np.ones(2)},
    )  # fmt: skip
    writer.add(first, split="train")
    writer.add(make_case("b", labelled=False, value=1))
    cohort = writer.finish(manifest={"training_patients": ["p1"]}, notes=["made by a test"])
    a, b = cohort
    np.testing.assert_array_equal(a.image, first.image)
    np.testing.assert_array_equal(a.labels, first.labels)
    np.testing.assert_allclose(a.affine, AFFINE)
    assert a.patient == 'O"Neil, X' and a.source == "synthetic" and b.labels is None and b.source == "real"
    assert dict(a.attributes) == {"age": 62.0, "sex": "F"}  # numbers come back as numbers, absent ones not at all
    assert dict(a.provenance) == {"seed": 7, "condition": {"sex": "F"}, "latent": [1.0, 1.0]}
    assert cohort.manifest["training_patients"] == ["p1"] and cohort.notes == ("made by a test",)
    assert cohort.label_table == ACDC and cohort.modality == "CT"
    assert cohort.labelled().names == ("a",) and cohort.unlabelled().names == ("b",)
    assert cohort.split("train").names == ("a",) and cohort.split_counts == {"train": 1, "": 1}
    assert [case.name for case in cohort.subset(["b", "a"])] == ["b", "a"]


def test_the_folder_is_what_nnunet_expects(tmp_path):
    make_cohort(tmp_path)
    description = json.loads((tmp_path / "dataset.json").read_text())
    assert description["channel_names"] == {"0": "CT"} and description["numTraining"] == 3
    assert description["labels"] == {"background": 0, "RV": 1, "MYO": 2, "LV": 3}
    assert description["file_ending"] == ".nii.gz" and description["voxpair"]["source"] == "real"
    assert sorted(p.name for p in (tmp_path / "imagesTr").iterdir()) == [f"c{i}_0000.nii.gz" for i in range(3)]
    assert sorted(p.name for p in (tmp_path / "labelsTr").iterdir()) == [f"c{i}.nii.gz" for i in range(3)]
    assert volumes.stored_type(tmp_path / "imagesTr" / "c0_0000.nii.gz") == "int16"
    assert volumes.stored_type(tmp_path / "labelsTr" / "c0.nii.gz") == "uint8"
    assert not (tmp_path / "cases.jsonl").exists() and not (tmp_path / "manifest.json").exists()


def test_a_plain_nnunet_folder_is_a_cohort(tmp_path):
    make_cohort(tmp_path)
    (tmp_path / "cases.csv").unlink()
    description = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "RV": 1, "MYO": 2, "LV": 3}}
    (tmp_path / "dataset.json").write_text(json.dumps({**description, "numTraining": 3, "file_ending": ".nii.gz"}))
    cohort = Cohort.open(tmp_path)
    assert cohort.modality == "MRI" and cohort.patients == cohort.names == ("c0", "c1", "c2")
    assert all(record.source == "real" and record.split is None for record in cohort.records)


def test_cases_csv_from_a_spreadsheet_is_understood(tmp_path):
    make_cohort(tmp_path)
    (tmp_path / "cases.csv").write_bytes("\ufeffcase;patient;age\r\nc0;7;1\r\nc1;7;x y\r\nc2;8;\r\n".encode())
    cohort = Cohort.open(tmp_path)
    assert cohort.patients == ("7", "8")  # a patient stays text, an attribute becomes a number where it is one
    assert [dict(r.attributes) for r in cohort.records] == [{"age": 1.0}, {"age": "x y"}, {}]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: shutil.rmtree(f), "there is no folder"),
        (lambda f: (f / "dataset.json").unlink(), "is no cohort: it has no dataset.json"),
        (lambda f: (f / "dataset.json").write_text("{"), "cannot read .*dataset.json as JSON"),
        (lambda f: (f / "dataset.json").write_text('{"labels": {"0": "x"}}'), "not of nnU-Net v2's form"),
        (lambda f: (f / "imagesTr" / "c1_0000.nii.gz").unlink(), "labelsTr/c1.nii.gz has no image"),
        (lambda f: (f / "labelsTr" / "c1.nii.gz").unlink(), "says that case c1 is labelled, but labelsTr has no c1"),
        (
            lambda f: (f / "imagesTr" / "c1_0000.nii.gz").rename(f / "imagesTr" / "new_0000.nii.gz"),
            "1 .*no image|image",
        ),
        (lambda f: (f / "imagesTr" / "c1_0000.nii.gz").rename(f / "imagesTr" / "c1.nii.gz"), "CASE_0000.nii.gz"),
        (lambda f: (f / "cases.csv").write_text("name\nc0\n"), "expected a column 'case', got the columns"),
        (lambda f: (f / "cases.csv").write_text("case\nc0\nc0\n"), "line 3: case 'c0' is listed twice"),
        (lambda f: (f / "cases.csv").write_text("case,patient\nc0\n"), "line 2: expected 2 fields"),
        (lambda f: (f / "cases.csv").write_text("case\nc0\n"), "c1_0000.nii.gz is not listed in"),
        (lambda f: (f / "cases.csv").write_text("case,source\nc0,x\nc1,real\nc2,real\n"), "has source 'x'; expected"),
    ],
)
def test_open_names_what_is_wrong(tmp_path, damage, message):
    make_cohort(tmp_path / "c")
    damage(tmp_path / "c")
    with pytest.raises(InputError, match=message):
        Cohort.open(tmp_path / "c")


def test_open_refuses_an_empty_cohort_channels_and_regions(tmp_path):
    make_cohort(tmp_path)
    path = tmp_path / "dataset.json"
    content = json.loads(path.read_text())
    for change, message in (
        ({"channel_names": {"0": "T1", "1": "FLAIR"}}, "has 2 channels; .* drop channel 'FLAIR'"),
        ({"labels": {"background": 0, "whole": [1, 2]}}, r"label 'whole' = \[1, 2\]; expected one integer"),
        ({"labels": {"background": 0, "a": 1, "ignore": 2}}, "label 'ignore' = 2"),
        ({"file_ending": ".png"}, "file_ending '.png'"),
    ):
        path.write_text(json.dumps({**content, **change}))
        with pytest.raises(InputError, match=message):
            Cohort.open(tmp_path)
    path.write_text(json.dumps(content))
    for file in (*tmp_path.glob("*Tr/*"), tmp_path / "cases.csv"):
        file.unlink()
    with pytest.raises(InputError, match="has no cases: imagesTr holds no file"):
        Cohort.open(tmp_path)


def test_read_refuses_labels_on_another_grid_or_outside_the_table(tmp_path):
    cohort = make_cohort(tmp_path)
    path = tmp_path / "labelsTr" / "c0.nii.gz"
    labels = cohort.read("c0").labels
    shifted = AFFINE.copy()
    shifted[0, 3] += 0.005  # half a hundredth of a voxel: rounding
    volumes.write_labels(path, labels, shifted)
    assert cohort.read("c0").labels is not None
    shifted[0, 3] += 1
    volumes.write_labels(path, labels, shifted)
    with pytest.raises(InputError, match=r"case c0: .*c0\.nii\.gz lies up to 1.* voxels away from its image"):
        cohort.read("c0")
    volumes.write_labels(path, labels[:3], AFFINE)
    with pytest.raises(InputError, match=r"has shape \(3, 5, 6\), its image has \(4, 5, 6\)"):
        cohort.read("c0")
    volumes.write_labels(path, np.where(labels == 3, 9, labels), AFFINE)
    with pytest.raises(InputError, match=r"c0\.nii\.gz: label value 9 \(30 voxels\) is not in label table 'acdc'"):
        cohort.read("c0")
    with pytest.raises(InputError, match="no case 'zz' among these 3 cases"):
        cohort.read("zz")
    with pytest.raises(InputError, match="no case 'zz'"):
        cohort.subset(["zz"])


def test_split_of_an_unsplit_cohort_or_an_unknown_name(tmp_path):
    cohort = make_cohort(tmp_path)
    with pytest.raises(InputError, match="no cases in split 'test'; it has 3 in 'train'"):
        cohort.split("test")
    (tmp_path / "cases.csv").write_text("case\nc0\nc1\nc2\n")
    with pytest.raises(InputError, match="is not split yet; run: voxpair split"):
        Cohort.open(tmp_path).split("train")


def test_digest_names_the_content_and_survives_a_move(tmp_path):
    cohort = make_cohort(tmp_path / "a")
    digest = cohort.digest()
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)  # new modification times
    assert Cohort.open(tmp_path / "b").digest() == digest == make_cohort(tmp_path / "c").digest()
    assert cohort.subset(["c0"]).digest() != digest
    labels = cohort.read("c0").labels.copy()
    labels[0, 0, 0] ^= 1  # one voxel
    volumes.write_labels(tmp_path / "a" / "labelsTr" / "c0.nii.gz", labels, AFFINE)
    assert Cohort.open(tmp_path / "a").digest() != digest
    table = tmp_path / "b" / "cases.csv"
    table.write_text(table.read_text().replace("p1", "p0"))
    assert Cohort.open(tmp_path / "b").digest() != digest


class Killed(BaseException):
    """Stands for kill -9: nothing in the code under test catches it."""


@pytest.mark.parametrize("where", ["write_image", "write_labels", "journal"])
def test_a_killed_writer_goes_on_and_rewrites_the_case_in_work(tmp_path, monkeypatch, where):
    writer = CohortWriter(tmp_path, ACDC, "CT")
    writer.add(make_case("a"))
    with monkeypatch.context() as patch:
        if where == "journal":
            patch.setattr("voxpair.cohorts.journal.append", _cut_short)
        else:
            patch.setattr(volumes, where, _kill)
        with pytest.raises(Killed):
            writer.add(make_case("b", value=1))
    (tmp_path / "imagesTr" / ".123-b_0000.nii.gz").write_bytes(b"half")  # what atomic_path leaves after kill -9
    with pytest.raises(InputError, match="only half-made; run the command that makes it again"):
        Cohort.open(tmp_path)
    again = CohortWriter(tmp_path, ACDC, "CT")
    assert again.has("a") and not again.has("b") and len(again) == 1
    again.add(make_case("b", value=2))
    cohort = again.finish()
    assert cohort.names == ("a", "b") and not list(tmp_path.glob("*Tr/.*"))
    np.testing.assert_array_equal(cohort.read("b").image, make_case("b", value=2).image)


def _kill(*_):
    raise Killed


def _cut_short(path, text):
    with path.open("a") as stream:
        stream.write(text[: len(text) // 2])
    raise Killed


def test_a_writer_of_another_kind_does_not_go_on(tmp_path):
    CohortWriter(tmp_path, ACDC, "CT").add(make_case("a"))
    with pytest.raises(InputError, match="holds a half-made cohort of another kind"):
        CohortWriter(tmp_path, HIPPOCAMPUS, "CT")
    with pytest.raises(InputError, match="holds a half-made cohort of another kind"):
        CohortWriter(tmp_path, ACDC, "MRI")


def test_writer_refuses_bad_cases_before_touching_the_disk(tmp_path):
    writer = CohortWriter(tmp_path, ACDC, "CT")
    writer.add(make_case("a"))
    for case, message in (
        (make_case("a"), "has a case 'a' already"),
        (make_case("b", attributes={"split": "x"}), "attribute 'split' is the name of a fixed column"),
        (make_case("b", provenance={"score": float("nan")}), "must be finite"),
        (Case("b", np.ones((2, 2, 2)), None, np.eye(4), HIPPOCAMPUS, "b"), "its label table is"),
    ):
        with pytest.raises(InputError, match=message):
            writer.add(case)
    assert writer.finish().names == ("a",)
    with pytest.raises(InputError, match="modality 'PET': expected one of CT, MRI"):
        CohortWriter(tmp_path / "x", ACDC, "PET")
    with pytest.raises(InputError, match="no case was written"):
        CohortWriter(tmp_path / "x", ACDC, "CT").finish()


def test_overwrite_removes_only_what_voxpair_wrote(tmp_path):
    make_cohort(tmp_path)
    mine = (tmp_path / "notes.txt", tmp_path / "imagesTr" / "my sketch.png")
    for path in mine:
        path.write_text("mine")
    with pytest.raises(InputError, match="holds a finished cohort; choose another folder or pass --overwrite"):
        CohortWriter(tmp_path, ACDC, "CT")
    for path in mine[1:]:
        path.rename(tmp_path / path.name)
    writer = CohortWriter(tmp_path, ACDC, "CT", overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "cases.jsonl", "imagesTr", "labelsTr", "my sketch.png", "notes.txt",
    ]  # fmt: skip
    assert not list(tmp_path.glob("*Tr/*"))
    writer.add(make_case("z"))
    assert writer.finish().names == ("z",)


def test_overwrite_of_a_half_made_cohort_removes_the_case_in_work_too(tmp_path, monkeypatch):
    writer = CohortWriter(tmp_path, ACDC, "CT")
    with monkeypatch.context() as patch:
        patch.setattr(volumes, "write_labels", _kill)
        with pytest.raises(Killed):
            writer.add(make_case("a"))
    assert list(tmp_path.glob("imagesTr/*"))
    CohortWriter(tmp_path, HIPPOCAMPUS, "MRI", overwrite=True)
    assert not list(tmp_path.glob("imagesTr/*"))


def test_a_foreign_folder_is_never_overwritten(tmp_path):
    (tmp_path / "a" / "imagesTr").mkdir(parents=True)
    scan = tmp_path / "a" / "imagesTr" / "x_0000.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((2, 2, 2), np.uint8), np.eye(4)), scan)
    for overwrite in (False, True):
        with pytest.raises(InputError, match="holds imagesTr, which voxpair did not put there"):
            CohortWriter(tmp_path / "a", ACDC, "CT", overwrite=overwrite)
    (tmp_path / "a" / "dataset.json").write_text('{"channel_names": {"0": "CT"}, "labels": {"background": 0}}')
    with pytest.raises(InputError, match="that voxpair did not make; it is not overwritten"):
        CohortWriter(tmp_path / "a", ACDC, "CT", overwrite=True)
    assert scan.exists()


def test_a_finished_cohort_can_grow(tmp_path):
    before = make_cohort(tmp_path, seed=0)
    writer = CohortWriter.reopen(tmp_path)
    assert len(writer) == 3 and not (tmp_path / "dataset.json").exists()
    writer = CohortWriter(tmp_path, ACDC, "CT")  # killed after the reopening: the same command goes on
    writer.add(make_case("c9", value=9, provenance={"index": 9}))
    after = writer.finish({"seed": 0})
    assert after.names == (*before.names, "c9") and after.subset(before.names).digest() == before.digest()
    assert dict(after.read("c9").provenance) == {"index": 9}
    rows = read_cases_csv(tmp_path / "cases.csv")
    assert rows["c0"]["age"] == "40.0" and rows["c9"]["age"] == ""


def test_labels_are_read_without_the_image(tmp_path):
    writer = CohortWriter(tmp_path, ACDC, "MRI")
    whole = make_case("ann")
    writer.add(whole)
    writer.add(make_case("bob", labelled=False))
    cohort = writer.finish()
    (tmp_path / "imagesTr" / "ann_0000.nii.gz").write_bytes(b"nobody reads this")
    found = cohort.read_labels("ann")
    assert np.array_equal(found.labels, whole.labels) and np.allclose(found.affine, whole.affine)
    assert found.spacing_mm == pytest.approx(whole.spacing_mm) and found.patient == whole.patient
    with pytest.raises(InputError, match=r"bob .* has no labels"):
        cohort.read_labels("bob")
    with pytest.raises(InputError, match="no case 'eve'"):
        cohort.read_labels("eve")

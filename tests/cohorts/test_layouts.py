"""Import: every layout gives the same cohort, and says what was guessed, corrected or left out."""

import json

import numpy as np
import pytest

from voxpair.cohorts import layouts, volumes
from voxpair.cohorts.cohort import Cohort, CohortWriter
from voxpair.cohorts.labelling import of_table, read_label_table
from voxpair.cohorts.layouts import import_scans
from voxpair.core.case import Case
from voxpair.core.errors import InputError
from voxpair.core.labels import ACDC, HIPPOCAMPUS

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
LABELS = (np.arange(60).reshape(3, 4, 5) % 3).astype(np.uint8)


def put(path, array, affine=AFFINE, labels=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    (volumes.write_labels if labels else volumes.write_image)(path, array, affine)


def image(i):
    return np.random.default_rng(i).integers(0, 100, (3, 4, 5)).astype(np.float32)


def make_msd(folder, **changes):
    for i in range(3):
        put(folder / "imagesTr" / f"la_{i}.nii.gz", image(i))
        put(folder / "labelsTr" / f"la_{i}.nii.gz", LABELS, labels=True)
    pairs = [{"image": f"./imagesTr/la_{i}.nii.gz", "label": f"./labelsTr/la_{i}.nii.gz"} for i in range(3)]
    content = {
        "name": "Heart", "modality": {"0": "MRI"}, "labels": {"0": "background", "1": "a", "2": "b"}, "training": pairs,
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps({**content, **changes}))
    return folder


def make_loose(folder, image_name="images/{}.nii.gz", labels_name="masks/{}_mask.nii.gz"):
    for i in range(3):
        put(folder / image_name.format(f"s{i}"), image(i))
        put(folder / labels_name.format(f"s{i}"), LABELS, labels=True)
    return folder


def test_decathlon_folder(tmp_path):
    source = make_msd(tmp_path / "s")
    for junk in ("imagesTr/._la_0.nii.gz", "labelsTr/._la_0.nii.gz"):
        (source / junk).write_bytes(b"mac")
    put(source / "imagesTr" / "la_7.nii.gz", image(7))
    put(source / "imagesTs" / "la_9.nii.gz", image(9))
    cohort, notes = import_scans(source, tmp_path / "c")
    assert cohort.names == ("la_0", "la_1", "la_2") and cohort.modality == "MRI"
    assert cohort.label_table.to_mapping() == {"background": 0, "a": 1, "b": 2}
    np.testing.assert_array_equal(cohort.read("la_2").image, image(2))
    np.testing.assert_array_equal(cohort.read("la_2").labels, LABELS)
    assert any(note.startswith("2 files named ._*") for note in notes)
    assert any(note.startswith("1 files in imagesTr and labelsTr that dataset.json does not list") for note in notes)
    assert any(note.startswith("1 test images in imagesTs were left out") for note in notes)
    assert notes[-1] == "3 cases imported; spacing 1 x 1 x 2 mm; 1 size (3, 4, 5)" and cohort.notes == tuple(notes)


def test_decathlon_refusals(tmp_path):
    source = make_msd(tmp_path / "s")
    (source / "labelsTr" / "la_1.nii.gz").unlink()
    with pytest.raises(InputError, match=r"lists .*labelsTr/la_1\.nii\.gz, which does not exist"):
        import_scans(source, tmp_path / "c")
    with pytest.raises(InputError, match="2 channels; voxpair reads one, so drop channel 'ADC'"):
        import_scans(make_msd(tmp_path / "t", modality={"0": "T2", "1": "ADC"}), tmp_path / "c")
    with pytest.raises(InputError, match="not of the Decathlon's form"):
        import_scans(make_msd(tmp_path / "u", labels=["a"]), tmp_path / "c")
    assert not (tmp_path / "c").exists()  # refused before anything was made


def test_nnunet_folder_and_a_cohort_again(tmp_path):
    writer = CohortWriter(tmp_path / "a", ACDC, "CT")
    writer.add(
        Case("x", image(0), LABELS, AFFINE, ACDC, "p", "synthetic", {"age": 3.0}, {"seed": 1}), split="train"
    )  # fmt: skip
    first = writer.finish({"training_patients": ["q"]})
    second, _ = import_scans(tmp_path / "a", tmp_path / "b")
    assert second.digest() == first.digest() and dict(second.manifest) == dict(first.manifest)
    (tmp_path / "a" / "imagesTr" / "x_0000.nii.gz").rename(tmp_path / "a" / "imagesTr" / "x_0001.nii.gz")
    with pytest.raises(InputError, match=r"x_0001\.nii\.gz: expected a name such as CASE_0000"):
        import_scans(tmp_path / "a", tmp_path / "c")


@pytest.mark.parametrize(
    ("image_name", "labels_name"),
    [
        ("images/{}.nii.gz", "masks/{}_mask.nii.gz"),  # as ACDC here
        ("{}.nii.gz", "{}_seg.nii.gz"),  # labels match the pattern of images too
        ("train/{}/scan.nii.gz", "train/{}/GT.nii.gz"),  # as SegTHOR: the folder is the case
        ("set [1]/{}.img.nii.gz", "set [1]/{}.label.nii.gz"),  # as ImageCAS, in a folder with glob's own letters
    ],
)
def test_patterns(tmp_path, image_name, labels_name):
    source = make_loose(tmp_path / "s", image_name, labels_name)
    patterns = {"images": image_name.replace("{}", "*"), "labels": labels_name.replace("{}", "*")}
    cohort, notes = import_scans(source, tmp_path / "c", label_table="hippocampus", **patterns)
    assert cohort.names == ("s0", "s1", "s2") and len(cohort.labelled()) == 3
    np.testing.assert_array_equal(cohort.read("s1").image, image(1))
    assert cohort.label_table == HIPPOCAMPUS
    assert any(note.startswith("modality MRI was guessed: the lowest value of case s0 is") for note in notes)


def test_patterns_without_labels_for_some_or_without_images(tmp_path):
    source = make_loose(tmp_path / "s")
    (source / "masks" / "s1_mask.nii.gz").unlink()
    (source / "images" / "._s0.nii.gz").write_bytes(b"mac")
    put(source / "images" / "s 9+.nii.gz", image(9) - 1024)
    (source / "cases.csv").write_text("case,patient,sex\ns0,anna,F\ns2,anna,\n")
    patterns = {"images": "images/*.nii.gz", "labels": "masks/*_mask.nii.gz"}
    cohort, notes = import_scans(source, tmp_path / "c", **patterns)
    assert cohort.unlabelled().names == ("s1", "s_9_") and cohort.patients == ("anna", "s1", "s_9_")
    assert dict(cohort.records[0].attributes) == {"sex": "F"}
    assert cohort.modality == "CT"  # the first image in order, 's 9+', has HU
    assert cohort.label_table.names == ("structure_1", "structure_2")
    said = "\n".join(notes)
    for sentence in (
        "1 files named ._*", "2 of 4 images have no labels", "case names got _ for other characters, such as 's_9_'",
        "no label table was given: the values found, [1, 2], were called structure_1, structure_2",
    ):  # fmt: skip
        assert sentence in said
    (source / "images" / "s0.nii.gz").unlink()
    with pytest.raises(InputError, match=r"s0_mask\.nii\.gz has no image: images/s0\.nii\.gz does not exist"):
        import_scans(source, tmp_path / "d", **patterns)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"not recognised: looked for a dataset\.json .* found no such file.*for example images/s0\.nii\.gz"),
        ({"layout": "dicomm"}, "unknown layout 'dicomm'; there are auto, nnunet, msd, patterns"),
        ({"layout": "patterns"}, "needs a pattern for the images"),
        ({"layout": "msd", "images": "*.nii"}, "patterns for images and labels go with layout 'patterns'"),
        ({"images": "images/*/*.nii.gz"}, r"exactly one \*"),
        ({"images": "../*.nii.gz"}, "a path inside"),
        ({"images": "scans/*.nii.gz"}, r"no image in .* matches 'scans/\*\.nii\.gz'; it holds for example"),
        ({"images": "images/*.nii.gz", "labels": "x/*.nii"}, "no label file in"),
        ({"images": "images/*.nii.gz", "modality": "PET"}, "modality 'PET': expected one of CT, MRI"),
        ({"images": "images/*.nii.gz", "label_table": "hart"}, "no label table 'hart': neither built in"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_made(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        import_scans(make_loose(tmp_path / "s"), tmp_path / "c", **arguments)
    assert not (tmp_path / "c").exists()


def test_the_source_is_never_the_destination(tmp_path):
    with pytest.raises(InputError, match="is where the scans are; name another folder"):
        import_scans(make_msd(tmp_path / "s"), tmp_path / "s", overwrite=True)


def test_two_scans_with_one_clean_name(tmp_path):
    for name in ("a b.nii.gz", "a_b.nii.gz"):
        put(tmp_path / "s" / name, image(0))
    with pytest.raises(InputError, match="2 scans would be called case 'a_b'"):
        import_scans(tmp_path / "s", tmp_path / "c", images="*.nii.gz")


def test_frames_of_one_patient_share_him(tmp_path):
    for name in ("patient001_frame01", "patient001_frame12", "patient002_frame01"):
        put(tmp_path / "s" / f"{name}.nii.gz", image(0))
    cohort, notes = import_scans(tmp_path / "s", tmp_path / "c", images="*.nii.gz")
    assert cohort.patients == ("patient001", "patient002")
    assert "the patients of 3 cases were taken from names such as patient001_frame01" in notes


def test_label_table_from_a_file_with_aliases_and_large_values(tmp_path):
    source = tmp_path / "s"
    stored = np.array([0, 205, 420, 421, 850], np.int16)[np.arange(60).reshape(3, 4, 5) % 5]
    put(source / "a_image.nii.gz", image(0))
    volumes._write(source / "a_label.nii.gz", stored, AFFINE)
    table = tmp_path / "mmwhs.yaml"
    table.write_text("labels: {LA: 420, MYO: 205, PA: 850}\naliases: {421: 420}\n")
    patterns = {"images": "*_image.nii.gz", "labels": "*_label.nii.gz"}
    cohort, _ = import_scans(source, tmp_path / "c", label_table=table, **patterns)
    assert cohort.label_table.to_mapping() == {"background": 0, "MYO": 1, "LA": 2, "PA": 3}
    np.testing.assert_array_equal(
        cohort.read("a").labels, np.array([0, 1, 2, 2, 3])[np.arange(60).reshape(3, 4, 5) % 5]
    )
    table.write_text('{"MYO": 205, "LA": 420, "PA": 850}')  # JSON, flat, no alias
    with pytest.raises(
        InputError, match=r"a_label\.nii\.gz: label value 421 \(12 voxels\) is not in label table 'mmwhs'"
    ):
        import_scans(source, tmp_path / "d", label_table=table, **patterns)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("labels: {a: 1}\nalias: {2: 1}", "unknown key 'alias'"),
        ("labels: {a: 1}\naliases: {2: 3}", "alias 2 stands for 3, which is not in the table"),
        ("a: one", "expected 'name: value' with whole numbers"),
        ("- a", "must hold 'key: value' lines"),
    ],
)
def test_bad_label_tables(tmp_path, text, message):
    path = tmp_path / "t.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_label_table(path)


def test_labelling_keeps_every_known_value():
    labels = np.arange(4, dtype=np.int32).repeat(5).reshape(2, 5, 2)
    np.testing.assert_array_equal(of_table(ACDC).apply(labels, "x"), labels)


def test_bad_scans_are_all_named_and_the_rest_is_kept(tmp_path):
    source = make_msd(tmp_path / "s")
    bad = source / "imagesTr" / "la_0.nii.gz"
    bad.write_bytes(bad.read_bytes()[:50])
    put(source / "labelsTr" / "la_2.nii.gz", LABELS, AFFINE + _shift(3), labels=True)
    with pytest.raises(
        InputError, match=r"2 of 3 scans cannot be imported:\n.*la_0(.|\n)*la_2\.nii\.gz lies up to 3 vox"
    ):
        import_scans(source, tmp_path / "c")
    make_msd(source)
    cohort, notes = import_scans(source, tmp_path / "c")
    assert len(cohort) == 3 and notes[-1].startswith("3 cases imported")  # the notes are about all of them


def _shift(voxels):
    shift = np.zeros((4, 4))
    shift[0, 3] = voxels
    return shift


def test_rounding_between_image_and_labels_is_mended_with_a_note(tmp_path):
    source = make_msd(tmp_path / "s")
    put(source / "labelsTr" / "la_2.nii.gz", LABELS, AFFINE + _shift(0.05), labels=True)
    cohort, notes = import_scans(source, tmp_path / "c")
    assert any(note.startswith("1 of 3 cases: labels lie less than a tenth of a voxel off") for note in notes)
    np.testing.assert_array_equal(cohort.read("la_2").affine, AFFINE)


def test_mixtures_of_types_and_scales_are_said(tmp_path):
    source = make_msd(tmp_path / "s")
    put(source / "imagesTr" / "la_1.nii.gz", image(1) * 1000.5)
    _, notes = import_scans(source, tmp_path / "c")
    assert "the images are stored in different types: 2 int16, 1 float32" in notes
    assert any(note.startswith("intensity scales differ: the 99th percentile runs from") for note in notes)


def test_an_interrupted_import_goes_on_to_the_same_cohort(tmp_path, monkeypatch):
    source = make_msd(tmp_path / "s")
    whole, whole_notes = import_scans(source, tmp_path / "whole")
    add = CohortWriter.add

    def killed_at_the_second(self, case, split=None):
        if case.name == "la_1":
            raise KeyboardInterrupt
        add(self, case, split)

    with monkeypatch.context() as patch:
        patch.setattr(CohortWriter, "add", killed_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            import_scans(source, tmp_path / "c")
    written = (tmp_path / "c" / "imagesTr" / "la_0_0000.nii.gz").stat().st_mtime_ns
    cohort, notes = import_scans(source, tmp_path / "c")
    assert cohort.digest() == whole.digest() and notes == whole_notes
    assert (tmp_path / "c" / "imagesTr" / "la_0_0000.nii.gz").stat().st_mtime_ns == written
    with pytest.raises(InputError, match="holds a finished cohort"):
        import_scans(source, tmp_path / "c")
    assert import_scans(source, tmp_path / "c", overwrite=True)[0].digest() == whole.digest()


def test_every_layout_says_what_it_is():
    assert all(layout.__doc__ and layout.__doc__.count("\n") == 0 for layout in layouts.LAYOUTS.values())


@pytest.mark.parametrize(
    ("folder", "image_pattern", "labels_pattern", "spacing"),
    [
        ("acdc", "images/*.nii.gz", "masks/*_mask.nii.gz", (1.5625, 1.5625, 10)),
        ("ptbp_brain", "*_t1.nii.gz", "*_seg.nii.gz", (1, 1, 1)),
    ],
)
def test_real_scans_by_patterns(tmp_path, shared_data, folder, image_pattern, labels_pattern, spacing):
    for pattern in (image_pattern, labels_pattern):
        for path in sorted((shared_data / folder).glob(pattern))[:2]:
            target = tmp_path / "s" / path.relative_to(shared_data / folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path)
    cohort, _ = import_scans(tmp_path / "s", tmp_path / "c", images=image_pattern, labels=labels_pattern)
    assert len(cohort.labelled()) == 2 and Cohort.open(tmp_path / "c").modality == "MRI"
    np.testing.assert_allclose(cohort.read(cohort.names[0]).spacing_mm, spacing, rtol=1e-5)

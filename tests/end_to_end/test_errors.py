"""A mistake ends with one sentence that names it, exit code 2 (1 when it happens mid-run), nothing half-written."""

import gzip
import json
import resource
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from voxpair.cli import main


def fails(capsys, code, *words):
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    text = capsys.readouterr().err
    assert end.value.code == code, text
    assert "Traceback" not in text
    return " ".join(text.split())


@pytest.fixture
def scans(small_scans, tmp_path):
    return shutil.copytree(small_scans, tmp_path / "scans")


@pytest.fixture
def cohort(scans, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["import", str(scans), "-o", str(tmp_path / "cohort"), "-q"])
    assert end.value.code == 0
    return tmp_path / "cohort"


def test_wrong_path(tmp_path, capsys):
    text = fails(capsys, 2, "import", tmp_path / "nowhere", "-o", tmp_path / "out")
    assert "nowhere" in text and not (tmp_path / "out").exists()
    assert "nowhere" in fails(capsys, 2, "fit", tmp_path / "nowhere", "-o", tmp_path / "out", "--preset", "unit")
    assert "nowhere" in fails(capsys, 2, "sample", "-i", tmp_path / "nowhere", "-o", tmp_path / "out")


def test_unreadable_file(scans, tmp_path, capsys):
    path = scans / "imagesTr/heart_0003.nii.gz"
    path.write_bytes(path.read_bytes()[:500])
    assert "heart_0003" in fails(capsys, 2, "import", scans, "-o", tmp_path / "out")
    assert not (tmp_path / "out/dataset.json").exists()


def test_label_value_outside_the_table(scans, tmp_path, capsys):
    path = scans / "labelsTr/heart_0002.nii.gz"
    image = nib.load(path)
    labels = np.asarray(image.dataobj).copy()
    labels[0, 0, :5] = 77
    nib.save(nib.Nifti1Image(labels, image.affine), path)
    text = fails(capsys, 2, "import", scans, "-o", tmp_path / "out")
    assert "heart_0002" in text and "77" in text


def test_label_file_missing_where_the_dataset_lists_one(scans, tmp_path, capsys):
    (scans / "labelsTr/heart_0001.nii.gz").unlink()
    assert "heart_0001" in fails(capsys, 2, "import", scans, "-o", tmp_path / "out")


@pytest.mark.parametrize("what", ["shape", "affine"])
def test_mismatched_shapes_or_affines(scans, tmp_path, capsys, what):
    path = scans / "labelsTr/heart_0004.nii.gz"
    image = nib.load(path)
    labels, affine = np.asarray(image.dataobj), image.affine.copy()
    if what == "shape":
        labels = labels[:-2]
    else:
        affine[:3, 3] += 30
    nib.save(nib.Nifti1Image(labels, affine), path)
    assert "heart_0004" in fails(capsys, 2, "import", scans, "-o", tmp_path / "out")


def test_empty_cohort(tmp_path, capsys):
    (tmp_path / "empty/imagesTr").mkdir(parents=True)
    content = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "a": 1},
        "numTraining": 0,
        "file_ending": ".nii.gz",
    }
    (tmp_path / "empty/dataset.json").write_text(json.dumps(content))
    assert "no cases" in fails(capsys, 2, "fit", tmp_path / "empty", "-o", tmp_path / "run", "--preset", "unit")


def test_cohort_without_a_split(cohort, tmp_path, capsys):
    text = fails(capsys, 2, "fit", cohort, "-o", tmp_path / "run", "--preset", "unit")
    assert "voxpair split" in text and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--set", "loop.speed=3"], "loop.speed"),
        (["--set", "loop.updates=many"], "loop.updates"),
        (["--preset", "huge"], "no preset 'huge'"),
        (["--config", "absent.yaml"], "absent.yaml"),
        (["--device", "tpu"], "--device 'tpu'"),
        (["--device", "cuda:7"], "this machine has"),
    ],
)
def test_unknown_settings_and_devices(cohort, tmp_path, capsys, words, expected):
    preset = [] if "--preset" in words else ["--preset", "unit"]
    text = fails(capsys, 2, "pretrain", cohort, "-o", tmp_path / "run", *preset, *words)
    assert expected in text and not (tmp_path / "run/checkpoint.json").exists()


def test_more_patients_than_there_are(cohort, capsys):
    before = (cohort / "cases.csv").read_bytes()
    text = fails(capsys, 2, "split", cohort, "--train", "20", "--val", "2")
    assert "10" in text and (cohort / "cases.csv").read_bytes() == before


def test_a_folder_of_somebody_else_is_not_touched(cohort, tmp_path, capsys):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/thesis.tex").write_text("ten years of work")
    for words in (
        ["phantom", "-n", "2", "--preset", "unit"],
        ["import", cohort],
        ["pretrain", cohort, "--preset", "unit"],
    ):
        fails(capsys, 2, *words, "-o", tmp_path / "theirs", "--overwrite")
    assert [path.name for path in (tmp_path / "theirs").iterdir()] == ["thesis.tex"]


def test_unknown_condition(tmp_path, capsys):
    text = fails(capsys, 2, "sample", tmp_path, "-o", tmp_path / "out", "--condition", "sexF")
    assert "expected KEY=VALUE" in text


def test_full_disk(tmp_path):
    """A limit on the size of files stands in for a full disk: the write fails in the same place with the same error."""
    code = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))\n"
        "from voxpair.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    out = tmp_path / "hearts"
    words = ["phantom", "-o", str(out), "-n", "3", "--preset", "unit", "--workers", "1"]
    result = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert result.returncode == 1, result.stderr
    assert "error: cannot write" in result.stderr and "Traceback" not in result.stderr
    assert not (out / "dataset.json").exists() and not list(out.glob("*Tr/*"))
    assert not list(out.rglob(".*"))  # nothing half-written; a second map may be there, of a case that counts not yet
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 6000
    with pytest.raises(SystemExit) as end:  # room again: the same command goes on
        main(words)
    assert end.value.code == 0


def test_damaged_weights(tmp_path, capsys, cohort):
    main_words = ["split", str(cohort), "--train", "6", "--val", "2"]
    with pytest.raises(SystemExit):
        main(main_words)
    with pytest.raises(SystemExit) as end:
        main(["segment", "fit", str(cohort), "-o", str(tmp_path / "seg"), "--preset", "unit", "-q"])
    assert end.value.code == 0
    (weights,) = (tmp_path / "seg/model").glob("*.safetensors")
    content = bytearray(weights.read_bytes())
    content[-3] ^= 0xFF
    weights.write_bytes(content)
    text = fails(capsys, 2, "segment", "predict", tmp_path / "seg", cohort, "-o", tmp_path / "out")
    assert str(tmp_path / "seg") in text


def test_gzip_of_something_else(scans, tmp_path, capsys):
    with gzip.open(scans / "imagesTr/heart_0005.nii.gz", "wb") as stream:
        stream.write(b"this is no image" * 50)
    assert "heart_0005" in fails(capsys, 2, "import", scans, "-o", tmp_path / "out")

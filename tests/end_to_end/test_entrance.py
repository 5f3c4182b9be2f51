"""The entrance: which source a command takes, what a folder that is there already means, and what is said about it."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import pytest

from voxpair import pipeline
from voxpair.cli import main
from voxpair.cohorts.cohort import Cohort
from voxpair.core.run import read_json

PRESET = ("--preset", "unit")


@pytest.fixture
def voxpair(capsys):
    """Runs a command line; gives what it says, the next command last, in one line; looks at its exit code."""

    def run(*words, code=0):
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        said = capsys.readouterr()
        assert end.value.code == code, said
        return " ".join((said.err + said.out).split())

    return run


@pytest.fixture
def scans(small_scans, tmp_path):
    return shutil.copytree(small_scans, tmp_path / "scans")


@pytest.fixture
def main_job_ends_with_the_split(monkeypatch):
    """Leaves of the main job what comes before the generator: import, check, split."""

    def split(cohort, output, plan, session, clock):
        pipeline.stages.split_if_needed(cohort, (0.6, 0.2, 0.2), session)
        return output / "report.html"

    monkeypatch.setattr(pipeline, "_pairs_and_segmenters", split)


@pytest.fixture
def nnunet(scans, tmp_path, voxpair):
    """The scans in nnU-Net's own layout."""
    voxpair("import", scans, "-o", tmp_path / "nnunet", "-q")
    content = read_json(tmp_path / "nnunet/dataset.json")
    del content["voxpair"]
    (tmp_path / "nnunet/dataset.json").write_text(json.dumps(content))
    (tmp_path / "nnunet/cases.csv").unlink()
    return tmp_path / "nnunet"


def next_words(said, folder, *changes):
    """Return the printed next command; names in capitals stand for folders, ``changes`` for words."""
    words = shlex.split(said.rpartition("next: voxpair ")[2])
    return [dict(changes).get(word, folder / word.lower() if word.isupper() else word) for word in words]


def test_run_compares_its_source_with_the_cohort_that_is_there(scans, tmp_path, voxpair, main_job_ends_with_the_split):
    words = ["-o", tmp_path / "run", *PRESET]
    voxpair("run", scans, *words)
    split = Cohort.open(tmp_path / "run/cohort").split_counts
    assert split == {"train": 6, "val": 2, "test": 2}
    assert "no folder" in voxpair("run", tmp_path / "nowhere", *words, code=2)
    other = shutil.copytree(scans, tmp_path / "other")
    for more in ([other], [scans, "--modality", "MRI"], [scans, "--label-table", "acdc"]):
        assert "made differently" in voxpair("run", *more, *words, code=2)
    assert "PET" in voxpair("run", scans, "--modality", "PET", "--overwrite", *words, code=2)
    assert "nosuch" in voxpair("run", scans, "--label-table", "nosuch", "--overwrite", *words, code=2)
    before = (tmp_path / "run/cohort/stage.json").stat().st_mtime_ns
    voxpair("run", scans, "--overwrite", *words)  # nothing differs, so nothing is replaced
    assert (tmp_path / "run/cohort/stage.json").stat().st_mtime_ns == before
    voxpair("run", scans, "--modality", "MRI", "--overwrite", *words)
    assert Cohort.open(tmp_path / "run/cohort").modality == "MRI"


def test_run_refuses_a_wrong_source_before_it_writes(tmp_path, voxpair):
    assert "no folder" in voxpair("run", tmp_path / "nowhere", "-o", tmp_path / "run", *PRESET, code=2)
    assert not (tmp_path / "run").exists()


def test_run_imports_scans_with_a_table_of_patients_beside_them(scans, tmp_path, voxpair, main_job_ends_with_the_split):
    names = sorted(path.name.removesuffix(".nii.gz") for path in (scans / "imagesTr").iterdir())
    rows = "".join(f"{name},p{i // 2}\n" for i, name in enumerate(names))
    (scans / "cases.csv").write_text("case,patient\n" + rows)
    voxpair("run", scans, "-o", tmp_path / "run", *PRESET)
    assert len(Cohort.open(tmp_path / "run/cohort").patients) == 5
    assert (scans / "cases.csv").read_text() == "case,patient\n" + rows


def test_run_uses_a_cohort_where_it_is_and_says_that_it_splits_it(
    scans, tmp_path, voxpair, main_job_ends_with_the_split
):
    voxpair("import", scans, "-o", tmp_path / "cohort")
    said = voxpair("run", tmp_path / "cohort", "-o", tmp_path / "run", *PRESET)
    assert f"{tmp_path / 'cohort'} has no split yet" in said and "cases.csv" in said
    assert not (tmp_path / "run/cohort").exists()
    assert "no split" not in voxpair("run", tmp_path / "cohort", "-o", tmp_path / "run", *PRESET)


def test_a_dry_run_plans_for_scans_that_are_not_imported_yet(scans, tmp_path, voxpair):
    voxpair("import", scans, "-o", tmp_path / "cohort")
    plans = [voxpair("run", source, "-o", tmp_path / "run", "--dry-run") for source in (scans, tmp_path / "cohort")]
    assert plans[0] == plans[1] and "planned from 10 scans" in plans[0]
    assert not (tmp_path / "run").exists()


def test_an_import_notices_that_its_scans_have_changed(nnunet, tmp_path, voxpair):
    words = ["import", nnunet, "-o", tmp_path / "cohort"]
    voxpair(*words)
    assert "already done" in voxpair(*words)
    marker = tmp_path / "cohort/stage.json"
    before = marker.stat().st_mtime_ns
    assert "already done" not in voxpair(*words, "--overwrite") and marker.stat().st_mtime_ns > before
    path = nnunet / "labelsTr/heart_0003.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.zeros_like(np.asarray(image.dataobj)), image.affine), path)
    assert "inputs.content" in voxpair(*words, code=2)
    voxpair(*words, "--overwrite")
    assert not Cohort.open(tmp_path / "cohort").read("heart_0003").labels.any()
    shutil.rmtree(nnunet / "labelsTr")
    assert "made differently" in voxpair(*words, code=2)
    voxpair(*words, "--overwrite")
    assert not len(Cohort.open(tmp_path / "cohort").labelled())


def test_an_import_notices_that_the_file_of_its_label_table_has_changed(scans, tmp_path, voxpair):
    table = tmp_path / "table.yaml"
    table.write_text("".join(f"part_{i}: {i}\n" for i in range(1, 9)))
    words = ["import", scans, "-o", tmp_path / "cohort", "--label-table", table]
    voxpair(*words)
    table.write_text(table.read_text().replace("part_1", "aorta"))
    assert "inputs.content" in voxpair(*words, code=2)


def test_a_broken_off_import_goes_on_with_mended_scans(scans, tmp_path, voxpair):
    path = scans / "imagesTr/heart_0003.nii.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:500])
    words = ["import", scans, "-o", tmp_path / "cohort"]
    assert "heart_0003" in voxpair(*words, code=2)
    path.write_bytes(whole)
    assert "begins anew" in voxpair(*words)
    assert len(Cohort.open(tmp_path / "cohort")) == 10


@pytest.mark.parametrize("wrong", ["acdc", "nosuch", "PET"])
def test_a_refused_import_leaves_nothing_behind(scans, tmp_path, voxpair, wrong):
    voxpair("import", scans, "-o", tmp_path / "out", "--modality" if wrong == "PET" else "--label-table", wrong, code=2)
    assert not (tmp_path / "out").exists()
    voxpair("import", scans, "-o", tmp_path / "out")
    option = ["--modality", "PET"] if wrong == "PET" else ["--label-table", "nosuch"]
    voxpair("import", scans, "-o", tmp_path / "out", "--overwrite", *option, code=2)
    assert len(Cohort.open(tmp_path / "out")) == 10  # a slip of the pen costs no cohort


def test_refused_fits_and_samples_leave_nothing_behind(scans, tmp_path, voxpair):
    cohort, words = tmp_path / "cohort", ["-q", "--device", "cpu"]
    voxpair("import", scans, "-o", cohort, "-q")
    voxpair("split", cohort, "--train", "6", "--val", "2", "--test", "2", "-q")
    voxpair("pretrain", cohort, "-o", tmp_path / "encoder", *PRESET, "--device", "tpu", code=2)
    assert not (tmp_path / "encoder").exists()
    voxpair("pretrain", cohort, "-o", tmp_path / "encoder", *PRESET, *words)
    (tmp_path / "encoder/done.json").rename(tmp_path / "done.json")
    voxpair("pretrain", cohort, "-o", tmp_path / "encoder", *PRESET, "--device", "tpu", code=2)
    assert (tmp_path / "encoder/encoder.json").exists()  # what an earlier call has done is not touched

    voxpair("fit", cohort, "-o", tmp_path / "generator", *PRESET, *words)
    assert "already done" in voxpair("fit", cohort, "-o", tmp_path / "generator", *PRESET, "--device", "cpu")
    sample = ["sample", tmp_path / "generator", "-o", tmp_path / "made", "-n", "2", "--device", "cpu"]
    assert "'colour' is not known" in voxpair(*sample, "--condition", "colour=red", code=2)
    assert not (tmp_path / "made").exists()
    voxpair(*sample)
    assert "already done" in voxpair(*sample)
    image = next((tmp_path / "made/imagesTr").iterdir())
    before = image.stat().st_mtime_ns
    assert "already done" not in voxpair(*sample, "--overwrite") and image.stat().st_mtime_ns > before
    voxpair(*sample, "--overwrite", "--condition", "colour=red", code=2)
    assert len(Cohort.open(tmp_path / "made")) == 2


def test_the_printed_next_command_runs(tmp_path, voxpair):
    """From hearts to judged predictions by what is printed; names in capitals, numbers and presets are filled in."""
    quick, real, real_test = ("--device", "cpu"), tmp_path / "hearts", ["--split", "test"]
    said = voxpair("phantom", "-o", real, "-n", "10", *PRESET)
    voxpair(*next_words(said, tmp_path))
    said = voxpair("check", real)
    assert next_words(said, tmp_path) == ["fit", str(real), "-o", tmp_path / "run"]
    said = voxpair(*next_words(said, tmp_path), *PRESET, *quick)
    said = voxpair(*next_words(said, tmp_path, ("100", "3")), *quick)
    assert next_words(said, tmp_path)[:4] == ["evaluate", "pairs", str(tmp_path / "synthetic"), str(real)]

    synthetic = tmp_path / "synthetic"
    said = voxpair("pretrain", synthetic, real, "-o", tmp_path / "encoder", *PRESET, *quick)
    assert next_words(said, tmp_path)[2:4] == [str(real), str(synthetic)]
    said = voxpair(*next_words(said, tmp_path), *quick)
    assert next_words(said, tmp_path)[-2:] == real_test
    said = voxpair(*next_words(said, tmp_path), *quick)
    said = voxpair(*next_words(said, tmp_path))
    assert "training cases" not in said and (tmp_path / "evaluation/masks.json").exists()
    assert next_words(said, tmp_path)[:2] == ["study", str(real)]

    voxpair("segment", "predict", tmp_path / "segmenter", real, "-o", tmp_path / "all", *quick)
    (tmp_path / "summary.json").write_text("{}")
    words = ["evaluate", "masks", tmp_path / "all", real, "-o", tmp_path / "evaluation"]
    assert "evaluation of masks made differently (inputs.predictions" in voxpair(*words, code=2)
    said = voxpair(*words, "--overwrite")
    assert "6 of the 10 judged cases are training cases" in said
    assert next_words(said, tmp_path) == ["report", str(tmp_path)]


def test_the_next_command_of_an_import(scans, tmp_path, voxpair):
    said = voxpair("import", scans, "-o", tmp_path / "cohort")
    said = voxpair(*next_words(said, tmp_path))
    voxpair(*next_words(said, tmp_path))
    assert set(Cohort.open(tmp_path / "cohort").split_counts) == {"train", "val"}


def test_a_report_needs_a_result(tmp_path, voxpair):
    (tmp_path / "notes.txt").write_text("not a run")
    assert "holds no result" in voxpair("report", tmp_path, code=2)
    assert not (tmp_path / "report.html").exists()


def test_scans_without_labels_are_counted(nnunet, tmp_path, voxpair):
    (nnunet / "labelsTr/heart_0003.nii.gz").unlink()
    assert "1 of 10 images have no labels" in voxpair("import", nnunet, "-o", tmp_path / "cohort")


def test_an_interrupted_command_says_so(tmp_path):
    words = ["phantom", "-o", str(tmp_path / "hearts"), "-n", "200", *PRESET]
    process = subprocess.Popen(
        [sys.executable, "-m", "voxpair", *words],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a terminal interrupts the workers too
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell may have us ignore it
    )
    while not list(tmp_path.glob("hearts/imagesTr/*")):
        assert process.poll() is None, "the command ended before it could be interrupted"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate()[1]
    assert process.returncode == 130
    assert [line for line in said.splitlines() if line] == [
        "error: interrupted. What was finished is kept: the same command goes on from there."
    ]

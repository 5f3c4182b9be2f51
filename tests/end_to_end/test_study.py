"""The study from the command line, on files: arms, seeds, sweeps, tables, resume, and what it refuses."""

import csv
import subprocess
import sys
import time

import pytest

from voxpair.arms import ARMS, TEACHER, choose
from voxpair.cli import main
from voxpair.cohorts.cohort import Cohort
from voxpair.core.run import read_json
from voxpair.evaluation.masks.comparison import compare_protocols
from voxpair.presets import plan


def run(*words):
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return end.value.code


def phantoms(folder, *, seed=0):
    """Ten hearts of 16 voxels, split 6 / 2 / 2; those of another seed are other patients."""
    assert run("phantom", "-o", folder / "cohort", "-n", "10", "--preset", "unit", "--seed", seed) == 0
    assert run("split", folder / "cohort", "--train", "6", "--val", "2", "--test", "2") == 0
    return folder / "cohort"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return phantoms(tmp_path_factory.mktemp("phantoms"))


WORDS = ("--preset", "unit", "--device", "cpu", "--set", "segmentation.mix.real_only_last=0.5")


@pytest.fixture(scope="module")
def done(cohort, tmp_path_factory):
    """Every kind of material, two seeds, half of the labels hidden, two processes."""
    folder = tmp_path_factory.mktemp("study") / "run"
    arms = "baseline,self_training,domain_randomisation,ours,ours_self_training,e2_2"
    words = ["study", cohort, "-o", folder, "--arms", arms, "--seeds", "2", "--labelled", "3", "--workers", "2", *WORDS]
    assert run(*words) == 0
    return folder, words


def test_every_arm_is_in_the_table_and_whatever_it_requires(done):
    rows = [row for row in read_json(done[0] / "study.json")["rows"] if row["structure"] is None]
    assert [row["arm"] for row in rows] == [
        "baseline", TEACHER, "self_training", "domain_randomisation", "ours", "ours_self_training",
        "e2_2",
    ]  # fmt: skip
    assert {(row["labelled"], row["unlabelled"], row["seeds"], row["patients"]) for row in rows} == {(3, 3, 2, 2)}
    updates = {row["arm"]: row["updates"] for row in rows}
    assert updates.pop("baseline") == 3 and set(updates.values()) == {6}  # half of what the mixed arms see is real


def test_csv_and_markdown_say_what_the_json_says(done):
    folder = done[0]
    rows = read_json(folder / "study.json")["rows"]
    with (folder / "study.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [row["arm"] for row in table] == [row["arm"] for row in rows]
    assert [float(row["dice"]) for row in table if row["dice"]] == [r["dice"] for r in rows if r["dice"] is not None]
    text = (folder / "study.md").read_text()
    assert "3 labelled, 3 unlabelled training cases; 2 held-out patients" in text and "| baseline | 3 | 2 |" in text


def test_differences_are_those_of_the_evaluations(done):
    folder = done[0]
    row = next(r for r in read_json(folder / "study.json")["rows"] if r["arm"] == "ours" and r["structure"] is None)
    assert row["reference"] == "baseline"
    places = {
        name: [folder / "evaluation" / name, folder / "evaluation" / name / "seed1"] for name in ("ours", "baseline")
    }
    found = compare_protocols(places, [("ours", "baseline")], folder / "again.json")["comparisons"][0]
    assert row["difference"] == found["difference"] and row["low"] == found["low"]


def test_the_report_shows_the_table(done):
    page = (done[0] / "report.html").read_text(encoding="utf-8")
    assert "Study" in page and "self training" in page.lower().replace("_", " ")


def test_self_training_learns_from_hidden_cases_and_test_patients_teach_nobody(done, cohort):
    folder = done[0]
    train = set(Cohort.open(cohort).split("train").names)
    for seed in ("", "seed1"):
        labelled = Cohort.open(folder / "pseudo_labelled" / TEACHER / seed)
        assert len(labelled) == 3 and set(labelled.names) < train
    held_out = set(Cohort.open(cohort).split("test").patients) | set(Cohort.open(cohort).split("val").patients)
    assert not held_out & set(read_json(folder / "synthetic/manifest.json")["training_patients"])
    seen = read_json(folder / "segmenters/ours_self_training/stage.json")["inputs"]["cohorts"]
    made = [Cohort.open(folder / name).digest() for name in ("synthetic", f"pseudo_labelled/{TEACHER}")]
    assert seen[1:] == made


def test_the_same_command_again_fits_nothing_and_more_seeds_add_to_it(done):
    folder, words = done
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    assert run(*words) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")} == before
    words = [("3" if word == "2" and words[i - 1] == "--seeds" else word) for i, word in enumerate(words)]
    words = [("baseline,ours" if words[i - 1] == "--arms" else word) for i, word in enumerate(words)]
    assert run(*words) == 0
    rows = [row for row in read_json(folder / "study.json")["rows"] if row["structure"] is None]
    assert [(row["arm"], row["seeds"]) for row in rows] == [("baseline", 3), ("ours", 3)]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_killed_and_called_again_it_ends_as_if_nothing_had_happened(cohort, tmp_path):
    words = ["study", cohort, "--arms", "e2_1,e2_4", "--seeds", "1", "--workers", "1", *WORDS]
    words = [str(word) for word in words]
    process = subprocess.Popen([sys.executable, "-m", "voxpair", *words, "-o", str(tmp_path / "a")])
    while not (tmp_path / "a/segmenters/e2_4/metrics.jsonl").exists():
        assert process.poll() is None, "the study ended before it could be killed"
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert [row["arm"] for row in read_json(tmp_path / "a/study.json")["rows"] if row["structure"] is None] == ["e2_1"]
    for name in ("a", "b"):
        assert run(*words, "-o", tmp_path / name) == 0
    tables = [read_json(tmp_path / name / "study.json")["rows"] for name in ("a", "b")]
    assert tables[0] == tables[1]


def test_a_sweep_has_a_folder_per_pair_of_numbers_and_one_table(cohort, tmp_path):
    words = ["study", cohort, "-o", tmp_path / "s", "--arms", "e2_1,e2_5", "--seeds", "1", "--workers", "1", *WORDS]
    assert run(*words, "--labelled", "2,4", "--unlabelled", "0", "--ratios", "1,3") == 0
    rows = [row for row in read_json(tmp_path / "s/study.json")["rows"] if row["structure"] is None]
    assert [(row["labelled"], row["arm"]) for row in rows] == [
        (n, arm) for n in (2, 4) for arm in ("e2_1", "e2_5@1to1", "e2_5@3to1")
    ]
    assert (tmp_path / "s/labelled-4_unlabelled-0/report.html").exists() and (tmp_path / "s/report.html").exists()
    settings = read_json(tmp_path / "s/labelled-2_unlabelled-0/segmenters/e2_5@3to1/stage.json")["settings"]
    assert settings["mix"]["synthetic_share"] == 0.75


def test_transfer_is_judged_on_the_target(cohort, tmp_path):
    target = phantoms(tmp_path / "target", seed=5)
    words = ["study", cohort, "-o", tmp_path / "s", "--arms", "e3_1,e3_2", "--seeds", "1", "--workers", "1", *WORDS]
    assert run(*words, "--target", target) == 0
    held_out = set(Cohort.open(target).split("test").names)
    assert set(Cohort.open(tmp_path / "s/predictions/e3_2").names) == held_out
    start = read_json(tmp_path / "s/segmenters/e3_2/stage.json")["inputs"]["start"]
    assert start == read_json(tmp_path / "s/segmenters/e2_1/model/segmenter.json")["weights_sha256"]
    rows = {row["arm"]: row for row in read_json(tmp_path / "s/study.json")["rows"] if row["structure"] is None}
    assert rows["e3_2"]["reference"] == "e3_1" and rows["e2_1"]["reference"] is None


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--arms", "magic"], "no arm 'magic'; there are baseline"),
        (["--arms", "self_training"], "no training case of .* is without labels"),
        (["--arms", "e3_1"], "name it with --target"),
        (["--arms", "ours", "--labelled", "many"], "--labelled 'many': expected numbers"),
        (["--arms", "ours", "--labelled", "99"], "only 6 training cases have labels"),
        (["--arms", "ours", "--networks", "resnet"], "no network 'resnet'"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_fitted(cohort, tmp_path, capsys, words, text):
    import re

    assert run("study", cohort, "-o", tmp_path / "s", "--workers", "1", *words, *WORDS) == 2
    assert re.search(text, capsys.readouterr().err)
    assert not (tmp_path / "s/segmenters").exists()


def test_patients_in_both_cohorts_are_refused(cohort, tmp_path, capsys):
    assert run("study", cohort, "-o", tmp_path, "--arms", "e3_1", "--target", cohort, *WORDS) == 2
    assert "share 10 patients" in capsys.readouterr().err


def test_arms_differ_in_what_they_say_and_in_nothing_else():
    base = plan("unit").segmentation
    for name, arm in ARMS.items():
        settings = arm.settings(base)
        same = settings.model_copy(update={"mix": base.mix, "augmentation": base.augmentation, "loop": base.loop})
        assert same == base, name
        assert (settings.loop.updates == base.loop.updates) != arm.epochs_of_ours
        assert settings.mix.real_only_last == (base.mix.real_only_last if arm.last_part_real else 0)
    assert ARMS["e2_4"].settings(base).mix.synthetic_share == 1
    assert choose(["ours"], ["swin_unetr"])["ours@swin_unetr"].pretraining(plan("unit").pretraining).backbone == (
        choose(["ours"], ["swin_unetr"])["ours@swin_unetr"].settings(base).backbone
    )

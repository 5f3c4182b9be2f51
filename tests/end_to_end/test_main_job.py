"""The main job from the command line, on files: demo, resume, and a user's own scans."""

import json
import re
import subprocess
import sys
import time
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from voxpair.cli import main
from voxpair.cohorts.cohort import Cohort, CohortWriter
from voxpair.core.run import read_json
from voxpair.evaluation.selection.selector import Judgement
from voxpair.generators.joint_ldm.generator import JointLDM
from voxpair.segmentation.segmenter import dice


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "120")
        with pytest.raises(SystemExit) as end:
            main(["demo", "-o", str(folder), "--preset", "unit", "--set", "seeds=2", "--device", "cpu"])
    assert end.value.code == 0
    return folder


def test_demo_leaves_everything_it_promises(demo):
    assert {"baseline", "medical_diffusion", "ours"} <= {path.name for path in (demo / "segmenters").iterdir()}
    page = (demo / "report.html").read_text(encoding="utf-8")
    assert "LAA" in page and "Medical Diffusion".lower() in page.lower().replace("_", " ")
    for protocol in ("baseline", "medical_diffusion", "ours"):
        dice = read_json(demo / "evaluation" / protocol / "masks.json")["dice"]["mean"]
        assert 0 <= dice <= 1
    assert read_json(demo / "evaluation/comparison.json")["comparisons"][0]["a"] == "ours"


def test_synthetic_cohort_is_a_cohort_in_hu_with_provenance(demo):
    synthetic = Cohort.open(demo / "synthetic")
    assert len(synthetic) == 3
    training = {record.patient for record in Cohort.open(demo / "cohort").split("train").records}
    manifest = read_json(demo / "synthetic/manifest.json")
    assert set(manifest["training_patients"]) == training
    for case in synthetic:
        assert case.source == "synthetic" and case.image.min() >= -1000 and case.image.max() <= 2000
        assert np.isfinite(case.image).all() and case.provenance["weights"] == manifest["weights_sha256"]
        assert np.allclose(case.spacing_mm, (150 / 16, 150 / 16, 130 / 16), rtol=0.4)


def test_the_same_command_again_does_nothing_again(demo, capsys):
    before = {path: path.stat().st_mtime_ns for path in demo.rglob("*.safetensors")}
    with pytest.raises(SystemExit) as end:
        main(["demo", "-o", str(demo), "--preset", "unit", "--set", "seeds=2", "--device", "cpu"])
    assert end.value.code == 0
    assert {path: path.stat().st_mtime_ns for path in demo.rglob("*.safetensors")} == before
    assert "next: open" in capsys.readouterr().out


def test_other_settings_in_the_same_folder_are_refused_and_named(demo, capsys):
    with pytest.raises(SystemExit) as end:
        main(["demo", "-o", str(demo), "--preset", "unit", "--set", "generator.diffusion.loop.updates=9"])
    assert end.value.code == 2
    assert re.search(r"settings\.diffusion\.loop\.updates was 8, now 9", capsys.readouterr().err)


def test_sampling_more_goes_on_from_what_is_there(demo, tmp_path, capsys):
    for count in ("1", "3"):
        with pytest.raises(SystemExit) as end:
            main(["sample", str(demo / "generator"), "-o", str(tmp_path / "s"), "-n", count, "--seed", "4"])
        assert end.value.code == 0
    with pytest.raises(SystemExit):
        main(["sample", str(demo / "generator"), "-o", str(tmp_path / "t"), "-n", "3", "--seed", "4"])
    grown, whole = Cohort.open(tmp_path / "s"), Cohort.open(tmp_path / "t")
    assert grown.names == whole.names and grown.digest() == whole.digest()


def test_run_on_scans_of_ones_own(small_scans, tmp_path, capsys):
    words = ["run", str(small_scans), "-o", str(tmp_path / "run"), "--preset", "unit", "--device", "cpu"]
    with pytest.raises(SystemExit) as end:
        main([*words, "--set", "cases.labelled=3", "--set", "cases.unlabelled=2"])
    assert end.value.code == 0, capsys.readouterr().err
    facts = read_json(tmp_path / "run/summary.json")
    assert facts["cohort"]["labelled"] == 3 + 4 and facts["cohort"]["cases"] == 3 + 2 + 4
    generator = json.loads((tmp_path / "run/generator/model/generator.json").read_text())
    assert len(generator["facts"]["training_patients"]) == 5


def test_predictions_lie_on_the_scans_own_grid(demo):
    for record in Cohort.open(demo / "predictions/ours").records:
        predicted, scan = (
            nib.load(path) for path in (record.labels_path, demo / "cohort/imagesTr" / record.image_path.name)
        )
        assert predicted.shape == scan.shape and np.allclose(predicted.affine, scan.affine)


def test_killed_and_called_again_gives_the_same_run(demo, tmp_path):
    words = ["demo", "-o", str(tmp_path / "run"), "--preset", "unit", "--set", "seeds=2", "--device", "cpu"]
    for sign in ("generator/latents/inputs.json", "segmenters/baseline/metrics.jsonl"):
        process = subprocess.Popen([sys.executable, "-m", "voxpair", *words], stderr=subprocess.DEVNULL)
        while not (tmp_path / "run" / sign).exists():
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.02)
        process.kill()
        process.wait()
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 0
    for name in ("synthetic", "predictions/ours", "predictions/ours/seed1"):
        assert Cohort.open(tmp_path / "run" / name).digest() == Cohort.open(demo / name).digest(), name


def test_selection_ends_clearly_when_it_is_hopeless(demo, tmp_path, capsys):
    for words in (
        ["phantom", "-o", str(tmp_path / "real"), "-n", "12", "--preset", "unit"],
        ["split", str(tmp_path / "real"), "--train", "10", "--val", "2"],
    ):
        with pytest.raises(SystemExit):
            main(words)
    words = ["sample", str(demo / "generator"), "-o", str(tmp_path / "s"), "-n", "3", "--select", "--attempts", "4"]
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2 and "at least 8 annotated real cases" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:  # what eight updates teach has no anatomy
        main([*words, "--real", str(tmp_path / "real"), "--rules", "volume,topology", "--overwrite"])
    assert end.value.code == 1
    assert re.search(r"0 of 4 synthetic cases were accepted .*Rule '\w+' rejected \d", capsys.readouterr().err)
    found = read_json(tmp_path / "s/selection.json")
    assert found["drawn"] == 4 and [entry["index"] for entry in found["rejected"]] == [0, 1, 2, 3]
    assert (tmp_path / "s/rejected.npz").exists()
    with pytest.raises(SystemExit) as end:
        main(["sample", str(demo / "generator"), "-o", str(tmp_path / "t"), "--rules", "volume"])
    assert end.value.code == 2 and "give --select too" in capsys.readouterr().err


def test_what_a_hopeless_selection_has_accepted_is_a_cohort_that_can_grow(demo, tmp_path, monkeypatch, capsys):
    def judges_by_chance(*_):
        verdicts = iter([True, *[False] * 4])
        return lambda case: Judgement(*((), ()) if next(verdicts) else (("odd",), ("volume",)), {})

    monkeypatch.setattr("voxpair.stages.selection._judge", judges_by_chance)
    words = ["sample", str(demo / "generator"), "-o", str(tmp_path / "s"), "--select", "--rules", "volume"]
    words += ["--real", str(demo / "cohort")]
    with pytest.raises(SystemExit) as end:
        main([*words, "-n", "6", "--attempts", "4"])
    assert end.value.code == 2 and "raise --attempts, or lower -n" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()
    with pytest.raises(SystemExit) as end:
        main([*words, "-n", "3", "--attempts", "4"])
    assert end.value.code == 1 and "1 of 4 synthetic cases were accepted" in capsys.readouterr().err
    kept = Cohort.open(tmp_path / "s")
    assert kept.names == ("synthetic_00000",) and kept.manifest["selection"]["drawn"] == 4
    assert kept.manifest["training_patients"] == list(Cohort.open(demo / "cohort").split("train").patients)
    with pytest.raises(SystemExit) as end:
        main([*words, "-n", "1", "--attempts", "4"])
    assert end.value.code == 0 and "already done" in capsys.readouterr().err


def test_scans_come_back_from_the_autoencoder_as_a_cohort_that_may_not_teach_on_the_quiet(demo, tmp_path, capsys):
    words = ["reconstruct", str(demo / "generator"), str(demo / "cohort"), "-o", str(tmp_path / "back")]
    for _ in range(2):
        with pytest.raises(SystemExit) as end:
            main([*words, "--split", "val"])
        assert end.value.code == 0
    assert "already done" in capsys.readouterr().err
    scans, back = Cohort.open(demo / "cohort").split("val"), Cohort.open(tmp_path / "back")
    assert back.names == scans.names and set(back.manifest["training_patients"]) > set(scans.patients)
    for scan, case in zip(scans, back):
        assert case.image.shape == scan.image.shape and np.allclose(case.affine, scan.affine)
        assert case.image.min() >= -1000 and not np.array_equal(case.image, scan.image)
    kept = read_json(demo / "generator/autoencoder/reconstruction.json")["dice"]  # measured on the same cases
    found = np.nanmean([dice(case.labels, scan.labels, 9) for scan, case in zip(scans, back)], axis=0)
    np.testing.assert_allclose(found, np.array(list(kept.values()), dtype=float), atol=1e-6)
    assert np.nanmax(found) > 0
    model, (scan, _) = JointLDM.load(demo / "generator/model", device="cpu"), scans
    bare = model.reconstruct(replace(scan, labels=None))
    assert set(np.unique(bare.labels)) <= set(range(9)) and bare.labels.shape == scan.image.shape
    words = ["segment", "fit", str(demo / "cohort"), str(tmp_path / "back"), "-o", str(tmp_path / "s")]
    with pytest.raises(SystemExit) as end:
        main([*words, "--preset", "unit"])
    assert end.value.code == 2 and "scores would be too good" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_pairs_are_measured_by_a_judge_that_knows_real_cases_alone(demo, tmp_path, capsys):
    words = ["evaluate", "pairs", str(demo / "synthetic"), str(demo / "cohort"), "-o", str(tmp_path / "pairs")]
    with pytest.raises(SystemExit) as end:
        main([*words, "--segmenter", str(demo / "segmenters/ours")])
    assert end.value.code == 2 and "has seen synthetic cases" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        main([*words, "--segmenter", str(demo / "segmenters/baseline")])
    assert end.value.code == 0
    found = {measure["name"]: measure for measure in read_json(tmp_path / "pairs/pairs.json")["measures"]}
    assert {"frechet", "ms_ssim", "noise_ratio", "third_class_rate", "dice"} <= set(found)
    assert "too few cases: 3 synthetic" in found["frechet"]["note"]
    assert (tmp_path / "pairs/pairs.csv").read_text().count("\n") == 1 + 3 + 10


def test_the_audit_is_a_verb_that_audits_itself(demo, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["audit", str(demo / "synthetic"), str(demo / "cohort"), "-o", str(tmp_path / "few")])
    assert end.value.code == 2 and "4 reference cases" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["phantom", "-o", str(tmp_path / "strangers"), "-n", "10", "--preset", "unit", "--seed", "8"])
    cases = Cohort.open(tmp_path / "strangers")
    renamed = CohortWriter(tmp_path / "others", cases.label_table, "CT")
    for case in cases:
        renamed.add(replace(case, name=f"other_{case.name}", patient=f"other_{case.name}"))
    renamed.finish()
    words = ["audit", str(demo / "synthetic"), str(demo / "cohort"), "--reference", str(tmp_path / "others")]
    words += ["-o", str(tmp_path / "audit"), "--set", "detector.embedding.loop.updates=10", "--set", "planted=2"]
    for _ in range(2):  # finished, it is read and not made again
        with pytest.raises(SystemExit) as end:
            main(words)
        audit = read_json(tmp_path / "audit/audit.json")
        assert end.value.code == (0 if audit["control"]["passed"] else 1)
    assert {"copies", "patients_copied", "membership_auc", "control"} <= set(audit) and audit["synthetic"] == 3
    assert audit["control"]["by_disguise"]["exact"] == {"planted": 2, "found": 2}

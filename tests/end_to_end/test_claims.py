"""How a stage owns its folder, on the cheapest of all stages: claims by hand, and ``evaluate masks``."""

from types import SimpleNamespace

import numpy as np
import pytest

from voxpair import stages
from voxpair.cohorts.cohort import CohortWriter
from voxpair.core.case import Case
from voxpair.core.errors import InputError, RunError
from voxpair.core.labels import LabelTable
from voxpair.stages import Session, claims
from voxpair.stages.claims import claim, finish

TABLE = LabelTable.from_mapping("one", {"background": 0, "A": 1})


def cohort(folder, layers, name="one"):
    """One case of 8 x 8 x 8 voxels, with ``layers`` of structure A."""
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[:layers] = 1
    writer = CohortWriter(folder, TABLE, "CT")
    writer.add(Case(name, np.zeros(labels.shape, np.float32), labels, np.eye(4), TABLE, "p1"))
    return writer.finish()


def done(folder, session, **inputs):
    with claim(folder, "toy", None, session, inputs) as run:
        (run.path / "result.txt").write_text(str(inputs))
        finish(run.path)


def test_masks_are_evaluated_once_and_others_do_not_mix_with_them(tmp_path):
    truth, good, poor = (cohort(tmp_path / name, layers) for name, layers in (("truth", 4), ("good", 4), ("poor", 2)))
    out = tmp_path / "evaluation"
    first = stages.evaluate_masks(good, truth, out, Session())
    before = (out / "masks.csv").stat().st_mtime_ns
    assert stages.evaluate_masks(good, truth, out, Session()) == first and first.dice.mean == 1.0
    assert (out / "masks.csv").stat().st_mtime_ns == before
    for predictions, tolerance_mm, differs in ((poor, 1.0, "predictions"), (good, 2.0, "tolerance_mm")):
        with pytest.raises(InputError, match=rf"evaluation of masks made differently \(inputs\.{differs} was"):
            stages.evaluate_masks(predictions, truth, out, Session(), tolerance_mm=tolerance_mm)
    assert stages.evaluate_masks(poor, truth, out, Session(overwrite=True)).dice.mean == pytest.approx(2 / 3)


def test_a_further_seed_may_be_there_before_the_first_and_outlives_it(tmp_path):
    done(tmp_path / "ours/seed1", Session(), seed=1)
    done(tmp_path / "ours", Session(), seed=0)
    done(tmp_path / "ours", Session(overwrite=True), seed=7)
    assert (tmp_path / "ours/result.txt").read_text() == "{'seed': 7}"
    assert (tmp_path / "ours/seed1/result.txt").read_text() == "{'seed': 1}"


def test_a_folder_of_somebody_else_is_not_touched(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/mine.txt").write_text("keep")
    for session in (Session(), Session(overwrite=True)):
        with pytest.raises(InputError, match="not empty and was not made by voxpair"):
            done(tmp_path, session)
    assert (tmp_path / "notes/mine.txt").read_text() == "keep"


def test_predictions_of_other_cases_are_no_result_of_nought(tmp_path):
    truth, others = cohort(tmp_path / "truth", 4), cohort(tmp_path / "others", 4, name="other")
    with pytest.raises(InputError, match=r"others \(other …\) .*/truth \(one …\) have no case in common"):
        stages.evaluate_masks(others, truth, tmp_path / "out", Session())
    assert not (tmp_path / "out").exists()


def test_what_is_finished_needs_no_room(tmp_path, monkeypatch):
    truth = cohort(tmp_path / "truth", 4)
    first = stages.evaluate_masks(truth, truth, tmp_path / "out", Session())
    monkeypatch.setattr(claims.shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    assert stages.evaluate_masks(truth, truth, tmp_path / "out", Session()) == first
    with pytest.raises(RunError, match="has 1 MB left; at least 50 are needed"):
        stages.evaluate_masks(truth, truth, tmp_path / "more/out", Session())
    assert not (tmp_path / "more").exists()

"""Several segmenters as one: their mean decides, and what they have seen is added up."""

from dataclasses import replace

import numpy as np
import pytest

from segmentation.balls import ball, balls
from voxpair.cli import main
from voxpair.cohorts.cohort import Cohort
from voxpair.core.errors import InputError
from voxpair.core.labels import BRAIN4, HIPPOCAMPUS
from voxpair.core.run import read_json
from voxpair.core.settings import merge
from voxpair.segmentation.ensemble import Ensemble
from voxpair.segmentation.segmenter import Segmenter, SegmenterSettings
from voxpair.stages import Session, segment_fit, segment_predict

SETTINGS = merge(
    SegmenterSettings(),
    {
        "backbone": {"channels": (8, 16, 16)},
        "preprocess": {"grid": (16, 16, 16)},
        "loop": {"updates": 3, "batch_size": 2, "precision": "32-true", "warmup": 0, "validate_every": None},
    },
    source="test",
)
CASE = ball("case", seed=1)


class Sure(Segmenter):
    """A segmenter that gives every voxel the same probabilities."""

    def __init__(self, *probabilities, settings=SETTINGS, table=HIPPOCAMPUS, modality="MRI"):
        super().__init__(settings, table, modality)
        self.given, self.digest = np.float32(probabilities).reshape(-1, 1, 1, 1), f"sure of {probabilities}"

    def probabilities(self, case):
        geometry = self.preprocessor.forward(replace(case, labels=None), crop=False).geometry
        return np.broadcast_to(self.given, (3, 16, 16, 16)), geometry


def test_the_mean_probability_decides_not_the_majority():
    two, one = Sure(0.6, 0.4, 0.0), Sure(0.0, 1.0, 0.0)
    assert (two.predict(CASE).labels == 0).all()
    predicted = Ensemble([two, two, one]).predict(CASE)  # means: .4, .6, 0
    assert (predicted.labels == 1).all()
    assert predicted.source == "prediction" and np.array_equal(predicted.affine, CASE.affine)


def test_one_member_predicts_as_it_does_alone():
    alone = Sure(0.2, 0.3, 0.5)
    one, itself = Ensemble([alone]).predict(CASE), alone.predict(CASE)
    assert np.array_equal(one.labels, itself.labels) and one.provenance == itself.provenance


def test_the_digest_tells_ensembles_apart():
    a, b = Sure(0.6, 0.4, 0.0), Sure(0.0, 1.0, 0.0)
    assert len({Ensemble(members).digest for members in ([a], [b], [a, b], [a, b, b])}) == 4


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"modality": "CT"}, "modality: the first has MRI, number 2 CT"),
        ({"table": BRAIN4}, "labels"),
        ({"settings": merge(SETTINGS, {"preprocess": {"grid": (16, 16, 24)}}, source="test")}, "preprocess"),
    ],
)
def test_members_that_do_not_label_the_same_are_refused(other, what):
    with pytest.raises(InputError, match=what):
        Ensemble([Sure(1, 0, 0), Sure(1, 0, 0, **other)])


def test_no_members_are_refused():
    with pytest.raises(InputError, match="at least one"):
        Ensemble([])


def test_predictions_know_the_patients_of_all_members(tmp_path):
    """Two fits on different patients, and what both have seen stands in the manifest."""
    session, runs = Session(), []
    for number in range(2):
        cohort = balls(tmp_path / f"real{number}", 2, first=2 * number)
        train = replace(cohort, records=tuple(replace(record, split="train") for record in cohort.records))
        runs.append(segment_fit([train], tmp_path / f"run{number}", SETTINGS, replace(session, seed=number)))
    new = balls(tmp_path / "new", 2, first=10)
    words = ["segment", "predict", *runs, new.folder, "-o", tmp_path / "both"]
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    assert end.value.code == 0
    assert read_json(tmp_path / "both/manifest.json")["training_patients"] == ["real0", "real1", "real2", "real3"]
    alone = segment_predict(runs[0], new, tmp_path / "first", session)
    both = Cohort.open(tmp_path / "both")
    assert both.manifest["segmenter"] != alone.manifest["segmenter"]
    again = segment_predict(runs, new, tmp_path / "both", session)  # finished: nothing is done again
    assert np.array_equal(again.read("real10").labels, both.read("real10").labels)

"""Words about copies: no audit is no answer, a failed control proves nothing, and chance is not called copying."""

import json

import numpy as np
import pytest
from run_files import audit_files

from voxpair.report.audit import answer, control_rows, similarity_drawing, titles


@pytest.fixture
def audit(tmp_path):
    def made(copies=0, passed=True, **changes):
        audit_files(tmp_path, np.random.default_rng(0), copies, passed)
        return json.loads((tmp_path / "audit.json").read_text()) | changes

    return made


def test_no_audit_is_no_answer():
    found = answer(None)
    assert (found.tone, found.headline) == ("open", "Not audited")
    assert "Nothing in this run says" in found.sentences[0]
    assert titles(None) == {} and control_rows(None) == [] and similarity_drawing(None) is None


@pytest.mark.parametrize("copies", [0, 3])
def test_a_failed_control_proves_nothing_whatever_was_found(audit, copies):
    found = answer(audit(copies, passed=False))
    assert (found.tone, found.headline) == ("worse", "The audit proves nothing")
    assert "only 23 of 40 copies planted on purpose" in found.sentences[0]


def test_no_copy_is_good_news_only_with_a_control(audit):
    found = answer(audit())
    assert (found.tone, found.headline) == ("better", "No copy found")
    assert "37 of 40 copies planted on purpose" in found.sentences[0]
    assert "not told from others (AUC 0.53 [0.44, 0.62], 0.5 is chance)" in found.sentences[1]


def test_membership_that_shows_is_said_even_without_a_copy(audit):
    found = answer(audit(membership_auc=0.7, membership_interval=[0.6, 0.8]))
    assert (found.tone, found.headline) == ("open", "No copy found, yet training patients show")
    assert "can be told" in found.sentences[1]
    assert len(answer(audit(membership_auc=None, membership_interval=None)).sentences) == 1


def test_copies_beyond_chance_are_named_and_counted(audit):
    found = answer(audit(3))
    assert (found.tone, found.headline) == ("worse", "3 of 100 synthetic cases look like copies")
    assert "1 of 40 in the training set (2.5 %); 0.5 cases would be flagged by chance" in found.sentences[0]
    assert answer(audit(1)).headline == "1 of 100 synthetic cases looks like a copy"
    assert titles(audit(1)) == {"s1": "s1 like r3: embedding 0.97"}


def test_what_chance_explains_is_not_called_copying(audit):
    found = answer(audit(3, expected_false_alarms=5.0))
    assert (found.tone, found.headline) == ("open", "3 of 100 synthetic cases flagged, as many as false alarms explain")


def test_every_detector_is_drawn_with_its_threshold_in_words(audit, undrawn):
    found = similarity_drawing(audit())
    assert "voxels: highest of a synthetic case 0.97" in found.words and "threshold 0.9" in found.words
    empty = {"voxels": {"threshold": 0.9, "nearest_synthetic": [], "nearest_reference": [0.1]}}
    assert similarity_drawing(audit(detectors=empty)) is None

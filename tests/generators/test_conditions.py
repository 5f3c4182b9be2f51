"""Vocabulary, nulls, and what is refused."""

import json
import math

import pytest
import torch

from voxpair.core.errors import InputError
from voxpair.generators.joint_ldm.conditions import Conditions

CASES = [
    {"sex": "F", "age": 50.0, "volume:LAA": math.exp(1)},
    {"sex": "M", "age": "70", "volume:LAA": math.exp(3)},
    {"sex": "", "volume:LAA": 0.0, "free text": "x"},
]
KNOWN = Conditions.fit(["sex", "age", "volume:LAA", "scanner"], CASES)


def test_entries_and_their_vector():
    assert KNOWN.names == ("sex", "age", "volume:LAA") and KNOWN.length == 6  # nobody has a scanner
    assert KNOWN.encode({"sex": "M", "age": 50, "volume:LAA": math.exp(2)}).tolist() == [0, 1, -1, 1, 0, 1]


def test_what_is_not_mentioned_is_zeros_and_differs_from_the_mean():
    assert not KNOWN.encode({}).any()
    assert KNOWN.encode({"age": 60}).any()  # the mean age is known, not open


def test_a_case_without_a_structure_or_a_value_is_open_there():
    assert not KNOWN.encode_known(CASES[2]).any()
    assert KNOWN.encode_known(CASES[1]).tolist() == [0, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ({"weight": 3}, "known are sex, age, volume:LAA"),
        ({"sex": "f"}, "the training cases have F, M"),
        ({"age": "old"}, "expected a number"),
        ({"volume:LAA": 0}, "volume in mL above 0"),
    ],
)
def test_wrong_conditions_are_refused(condition, message):
    with pytest.raises(InputError, match=message):
        KNOWN.encode(condition)


def test_an_unconditional_generator_says_so():
    with pytest.raises(InputError, match="fitted without conditions"):
        Conditions().encode({"sex": "F"})


def test_json_round_trip():
    assert Conditions.from_json(json.loads(json.dumps(KNOWN.to_json()))) == KNOWN


def test_one_value_for_all_does_not_divide_by_zero():
    same = Conditions.fit(["age"], [{"age": 3}, {"age": 3}])
    assert torch.isfinite(same.encode({"age": 4})).all()


def test_hiding_takes_whole_entries_with_the_stated_probability():
    torch.manual_seed(0)
    vectors = KNOWN.encode({"sex": "F", "age": 70, "volume:LAA": math.exp(3)}).expand(20000, -1)
    hidden = KNOWN.hide(vectors, 0.2)
    shown = hidden[:, [0, 2, 4]] != 0
    assert torch.equal(hidden[:, 3] != 0, shown[:, 1])  # a number and its "known" go together
    assert shown.double().mean(0).tolist() == pytest.approx([0.64] * 3, abs=0.02)
    assert float((~shown).all(1).double().mean()) == pytest.approx(0.2 + 0.8 * 0.2**3, abs=0.02)
    assert torch.equal(KNOWN.hide(vectors, 0.0), vectors)


def test_open_categories_are_drawn_as_often_as_the_training_set_has_them_and_nothing_else_is():
    cases = [{"sex": "F", "contrast": "arterial", "age": 50}] * 3 + [{"sex": "M", "contrast": "none", "age": 60}]
    known = Conditions.fit(["sex", "contrast", "age"], cases)
    drawn = [known.draw({}, seed) for seed in range(2000)]
    assert all(set(condition) == {"sex", "contrast"} for condition in drawn)
    assert abs(sum(condition["sex"] == "F" for condition in drawn) / 2000 - 0.75) < 0.03
    asked = [known.draw({"sex": "M", "age": 55}, seed) for seed in range(50)]
    assert all(condition["sex"] == "M" and condition["age"] == 55 for condition in asked)
    assert [a["contrast"] for a in asked] == [d["contrast"] for d in drawn[:50]]  # one wish does not move another draw
    assert known.draw({}, 7) == known.draw({}, 7)


def test_a_vocabulary_of_an_earlier_version_leaves_categories_open():
    entries = [{key: value for key, value in entry.items() if key != "counts"} for entry in KNOWN.to_json()]
    assert Conditions.from_json(entries).draw({}, 0) == {}
    assert Conditions.from_json(json.loads(json.dumps(KNOWN.to_json()))) == KNOWN

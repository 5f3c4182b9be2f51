"""The quest stops when enough are accepted, goes on where it was, and ends in words when it is hopeless."""

import json
from dataclasses import asdict

import pytest
from scipy import stats

from voxpair.core.errors import InputError, RunError
from voxpair.evaluation.selection.quest import draw_until, rate_bound, summary
from voxpair.evaluation.selection.selector import Judgement


def judged(accepted, rule="volume"):
    return Judgement((), (), {}) if accepted else Judgement((f"{rule} is wrong",), (rule,), {})


def walk(outcomes, wanted, **options):
    """Draw the numbers 0, 1, 2, …; case i is accepted if ``outcomes[i]``."""
    return draw_until(lambda index: index, lambda index: judged(outcomes[index]), wanted, **options)


def test_it_stops_when_enough_are_accepted():
    found = list(walk([True, False, True, True, True], 3))
    assert [(index, case, judgement.accepted) for index, case, judgement in found] == [
        (0, 0, True),
        (1, 1, False),
        (2, 2, True),
        (3, 3, True),
    ]


@pytest.mark.parametrize("killed_after", range(12))
def test_an_interrupted_quest_goes_on_where_it_was(killed_after):
    outcomes = [index % 3 == 0 for index in range(100)]
    whole = list(walk(outcomes, 4))
    first = whole[:killed_after]
    rest = list(walk(outcomes, 4, earlier=[judgement for _, _, judgement in first]))
    assert first + rest == whole


def test_nothing_is_drawn_beyond_need():
    drawn = []
    quest = draw_until(lambda index: drawn.append(index), lambda case: judged(True), 50)
    for _ in range(3):
        next(quest)
    assert drawn == [0, 1, 2]
    assert list(walk([], 2, earlier=[judged(True)] * 2)) == []


@pytest.mark.parametrize(("accepted", "drawn"), [(0, 20), (1, 37), (5, 60), (20, 21)])
def test_the_bound_is_clopper_and_pearsons(accepted, drawn):
    assert stats.binom.cdf(accepted, drawn, rate_bound(accepted, drawn)) == pytest.approx(0.05)


def test_a_hopeless_quest_ends_in_words():
    wanted, limit = 10, 100
    reached = []
    with pytest.raises(RunError) as caught:
        for index, _, _ in walk([index == 5 for index in range(limit)], wanted, attempts_limit=limit):
            reached.append(index)
    stop = next(n for n in range(20, limit) if 1 + rate_bound(1, n) * (limit - n) < wanted)
    assert 20 < stop == len(reached) < limit
    text = str(caught.value)
    assert text.startswith(
        f"1 of {stop} synthetic cases were accepted ({1 / stop:.0%}), so 10 cannot be reached within"
    )
    assert f"Rule 'volume' rejected {stop - 1}, for example: volume is wrong." in text
    assert "Those accepted are kept" in text


def test_it_is_patient_for_twenty_draws_and_keeps_to_the_limit():
    late = [False] * 19 + [True] * 40
    assert len(list(walk(late, 5, attempts_limit=1000))) == 24
    with pytest.raises(RunError, match=r"2 of 12 .* so 3 cannot be reached within 12 draws"):
        list(walk([True, True] + [False] * 50, 3, attempts_limit=12))


@pytest.mark.parametrize(("wanted", "limit"), [(0, None), (5, 4)])
def test_a_senseless_wish_is_refused(wanted, limit):
    with pytest.raises(InputError, match="at least one accepted case must be wanted"):
        list(walk([True], wanted, attempts_limit=limit))


def test_the_summary_counts_and_json_can_hold_it():
    both = Judgement(("too large", "too small", "leaks"), ("volume", "volume", "topology"), {"LV_ml": 3.0})
    found = summary([judged(True), both, judged(False)])
    assert found == {
        "drawn": 3,
        "accepted": 1,
        "rate": pytest.approx(1 / 3),
        "rules": {"volume": 2, "topology": 1},
        "rejected": [
            {"index": 1, "reasons": ["too large", "too small", "leaks"]},
            {"index": 2, "reasons": ["volume is wrong"]},
        ],
    }
    assert summary([])["rate"] is None
    again = Judgement(**json.loads(json.dumps(asdict(both))))
    assert not again.accepted and summary([again]) == summary([both])

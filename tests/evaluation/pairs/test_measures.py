"""A measure's value and floor come from equally large, disjoint samples, and nothing undefined passes for a number."""

from dataclasses import asdict

import numpy as np
import pytest
from scipy import stats

from voxpair.core.run import read_json, write_json
from voxpair.evaluation.pairs.measures import DRAWS, FEWEST, compare_means, compare_sets


def spread(a, b):
    """A distance that is biased upwards in small samples, as Frechet's is."""
    return abs(float(np.mean(a)) - float(np.mean(b)))


def sizes_of(synthetic, real):
    """Return (size, synthetic?, real?) of both arguments of every call."""
    seen = []

    def distance(a, b):
        seen.append((a, b))
        return 0.0

    compare_sets("fidelity", "d", distance, [("s", i) for i in range(synthetic)], [("r", i) for i in range(real)])
    return seen


@pytest.mark.parametrize(("synthetic", "real", "size"), [(6, 100, 6), (100, 13, 6), (9, 18, 9), (4, 8, 4)])
def test_both_sides_of_value_and_floor_are_equally_large(synthetic, real, size):
    seen = sizes_of(synthetic, real)
    assert len(seen) == 2 * DRAWS
    for a, b in seen:
        assert len(a) == len(b) == size and len(set(a)) == len(set(b)) == size


def test_the_floor_compares_real_cases_with_other_real_cases():
    values, floors = sizes_of(10, 25)[::2], sizes_of(10, 25)[1::2]
    for (made, there), (other, same) in zip(values, floors):
        assert {kind for kind, _ in made} == {"s"} and {kind for kind, _ in (*there, *other)} == {"r"}
        assert there == same and not set(other) & set(same)


def test_every_case_is_drawn_sooner_or_later():
    seen = sizes_of(40, 20)
    assert {index for made, _ in seen[::2] for _, index in made} == set(range(40))
    assert {index for _, there in seen[::2] for _, index in there} == set(range(20))


def test_the_bias_of_a_small_sample_is_the_same_in_value_and_floor():
    """Equal distributions: the distance is far from 0 for few cases, but not far from its floor."""
    generator = np.random.default_rng(0)
    found = [
        compare_sets("fidelity", "d", spread, list(generator.normal(size=5)), list(generator.normal(size=10)), seed=i)
        for i in range(200)
    ]
    values, floors = (np.array([getattr(m, end) for m in found]) for end in ("value", "floor"))
    assert values.mean() > 0.3 and abs((values - floors).mean()) < 0.12


def test_a_difference_shows_and_the_same_seed_gives_the_same_measure():
    generator = np.random.default_rng(0)
    made, there = list(generator.normal(3, 1, 30)), list(generator.normal(0, 1, 60))
    found = compare_sets("fidelity", "d", spread, made, there, unit="mm", view="axial", structure="LV")
    assert found.low > found.floor_high and found.low <= found.value <= found.high
    assert (found.unit, found.view, found.structure, found.synthetic_cases, found.real_cases) == (
        "mm",
        "axial",
        "LV",
        30,
        30,
    )
    again = compare_sets("fidelity", "d", spread, made, there, unit="mm", view="axial", structure="LV")
    assert found == again
    assert compare_sets("fidelity", "d", spread, made, there, seed=1).floor != found.floor


@pytest.mark.parametrize(("synthetic", "real"), [(0, 0), (FEWEST - 1, 100), (100, 2 * FEWEST - 1), (1, 1)])
def test_too_few_cases_are_no_measure(synthetic, real):
    found = compare_sets("fidelity", "d", spread, [0.0] * synthetic, [0.0] * real)
    assert found.value is None and found.floor is None and found.low is None
    assert found.note.startswith(f"too few cases: {synthetic} synthetic and {real} real")


def test_draws_without_a_number_are_counted_and_left_out():
    calls = []

    def sometimes(a, b):
        calls.append(1)
        return float("nan") if len(calls) % 8 == 1 else 2.0  # every fourth value, no floor

    found = compare_sets("fidelity", "d", sometimes, [0.0] * 8, [0.0] * 16)
    assert found.value == found.floor == 2.0
    assert found.note == f"{DRAWS // 4} of {DRAWS} draws gave no number"
    never = compare_sets("fidelity", "d", lambda a, b: float("inf"), [0.0] * 8, [0.0] * 16)
    assert never.value is None and never.low is None and never.note == f"{DRAWS} of {DRAWS} draws gave no number"


def test_means_leave_undefined_cases_out_and_say_how_many():
    found = compare_means("plausibility", "parts", [1, 3, float("nan")], [2, 2, float("inf"), float("nan")])
    assert (found.value, found.floor, found.synthetic_cases, found.real_cases) == (2.0, 2.0, 2, 2)
    assert found.note == "left out as undefined: 1 synthetic, 2 real"
    assert compare_means("plausibility", "parts", [1, 3], [2]).note == ""


@pytest.mark.parametrize("synthetic", [[], [float("nan")]])
def test_a_mean_of_nothing_is_none_beside_a_floor_that_is_known(synthetic):
    found = compare_means("plausibility", "parts", synthetic, [2.0, 4.0])
    assert found.value is None and found.low is None and found.synthetic_cases == 0
    assert found.floor == 3.0 and found.floor_low == 2.0 and found.floor_high == 4.0
    one = compare_means("plausibility", "parts", [5.0], [2.0, 4.0])
    assert (one.value, one.low, one.high) == (5.0, None, None)  # one case has no interval


def test_the_interval_of_a_mean_is_the_normal_one_for_many_cases():
    values = np.random.default_rng(0).normal(10, 2, 400)
    found = compare_means("texture", "sd", values, values)
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert (found.floor, found.floor_low, found.floor_high) == (found.value, found.low, found.high)


def ends(found):
    return found.low, found.high, found.floor_low, found.floor_high


def test_equal_values_are_no_certainty():
    """None of n has it: the exact interval of a share, whose upper end is 1 - 0.025^(1/n)."""
    real = [0.0, 1.0] * 6
    for count, told_apart in ((3, False), (40, True)):
        found = compare_means("plausibility", "rule_broken", [0.0] * count, real)
        exact = stats.binomtest(0, count).proportion_ci(0.95, method="exact")
        assert (found.value, found.low, found.high) == (0.0, 0.0, pytest.approx(exact.high))
        assert (found.high < found.floor_low) == told_apart
    bad = compare_means("plausibility", "rule_broken", [1.0, 1.0, 0.0, 1.0, 1.0, 1.0], [0.0] * 40)
    assert bad.low > bad.floor_high > 0  # a rule that no real case breaks still shows those that do


@pytest.mark.parametrize(("count", "told_apart"), [(5, False), (6, True)])
def test_all_against_none_needs_six_a_side(count, told_apart):
    """Intervals of 1 and 0 part where 0.025^(1/n) > 1/2, from n = 6; then a sign test reaches p < 0.05, too."""
    found = compare_means("plausibility", "presence", [0.0] * count, [1.0] * count)
    assert ends(found) == pytest.approx((0, 1 - 0.025 ** (1 / count), 0.025 ** (1 / count), 1))
    assert (found.high < found.floor_low) == told_apart


def test_equal_values_of_any_kind_reach_as_far_as_any_that_were_seen():
    found = compare_means("plausibility", "pieces", [2.0] * 20, [1.0, 2.0, 3.0, 5.0])
    share = 1 - 0.025 ** (1 / 20)
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 2 - share, 2 + 3 * share))


def test_nothing_differs_where_all_values_are_equal():
    for value in (0.0, 0.1):
        found = compare_means("plausibility", "holes", [value] * 3, [value] * 10)
        assert {found.value, found.floor, *ends(found)} == {value}  # to the last bit: rounding would be a difference


def test_the_patient_is_the_unit_of_a_mean():
    values = np.random.default_rng(3).normal(size=12)
    once = compare_means("texture", "sd", values, values[:6])
    scans, names = np.repeat(values, 5), [f"p{i // 5}" for i in range(60)]
    found = compare_means("texture", "sd", scans, values[:6], patients=(names, list("abcdef")))
    assert (found.low, found.high) == pytest.approx((once.low, once.high))  # five scans of each are not more patients
    assert found.synthetic_cases == 60
    by_case = compare_means("texture", "sd", scans, values[:6])
    assert np.ptp([by_case.low, by_case.high]) == pytest.approx(np.ptp([once.low, once.high]) / np.sqrt(5), rel=0.1)


def test_one_patient_with_many_scans_has_no_interval():
    found = compare_means("texture", "sd", [1.0, 2.0, 3.0], [1.0, 1.0, 2.0], patients=(list("xxx"), list("yyz")))
    assert (found.value, found.low, found.high) == (2.0, None, None)
    assert found.floor_low == 1.0 and found.floor_high == 2.0


def test_equal_patients_have_an_interval_though_their_scans_differ():
    found = compare_means("texture", "sd", [0.0, 1.0, 1.0, 0.0], [0.0, 1.0], patients=(list("aabb"), list("cd")))
    share = 1 - np.sqrt(0.025)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5 - share / 2, 0.5 + share / 2))


def test_measures_go_through_json_whatever_is_missing(tmp_path):
    measures = [
        compare_sets("fidelity", "d", spread, [], []),
        compare_sets("fidelity", "d", lambda a, b: float("nan"), [0.0] * 8, [0.0] * 16),
        compare_means("texture", "sd", [], [1.0, np.float32(2)]),
    ]
    write_json(tmp_path / "measures.json", [asdict(m) for m in measures])
    assert read_json(tmp_path / "measures.json") == [asdict(m) for m in measures]


def test_scans_of_one_patient_are_never_on_both_sides_of_the_floor():
    real = [(patient, scan) for patient in range(9) for scan in range(3)]
    seen = []

    def distance(first, second):
        if second[0] in real and first[0] in real:
            seen.append(({p for p, _ in first}, {p for p, _ in second}))
            assert len(seen[-1][0]) == len(first) == 4  # one scan of each
        return 0.0

    found = compare_sets(
        "fidelity", "d", distance, [("s", i) for i in range(20)], real, patients=[str(p) for p, _ in real]
    )
    assert found.real_cases == found.synthetic_cases == 4  # nine patients, not 27 scans
    assert len(seen) == DRAWS and not any(a & b for a, b in seen)
    few = compare_sets("fidelity", "d", distance, [0] * 20, real[:12], patients=[str(p) for p, _ in real[:12]])
    assert few.value is None and "4 real" in few.note

"""A measure's value and floor come from equally large, disjoint samples, and nothing undefined passes for a number."""

from dataclasses import asdict

import numpy as np
import pytest

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


def test_measures_go_through_json_whatever_is_missing(tmp_path):
    measures = [
        compare_sets("fidelity", "d", spread, [], []),
        compare_sets("fidelity", "d", lambda a, b: float("nan"), [0.0] * 8, [0.0] * 16),
        compare_means("texture", "sd", [], [1.0, np.float32(2)]),
    ]
    write_json(tmp_path / "measures.json", [asdict(m) for m in measures])
    assert read_json(tmp_path / "measures.json") == [asdict(m) for m in measures]

"""Intervals cover what they claim, and every adjustment agrees with a calculation by hand."""

import numpy as np
import pytest
from scipy import stats

from voxpair.core.errors import InputError
from voxpair.evaluation.statistics import (
    bootstrap_interval,
    compare,
    holm,
    largest_unseen_share,
    smallest_detectable_difference,
)


def difference_of(differences, resamples=10_000, seed=0):
    """One seed of a method that differs from zero by so much in each patient."""
    return compare(np.atleast_2d(differences), np.zeros((1, len(differences))), resamples=resamples, seed=seed)


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    intervals = [difference_of(generator.normal(0.3, 1.0, 40), 400, seed) for seed in range(300)]
    covered = np.mean([interval.low <= 0.3 <= interval.high for interval in intervals])
    assert 0.89 < covered < 0.98  # 95 % minus the known optimism of percentiles at 40; binomial SD is 1.3 %


def test_the_interval_knows_that_another_seed_might_have_been_drawn():
    generator, covered = np.random.default_rng(5), []
    for seed in range(300):  # seeds differ twice as much as the mean over patients does; the methods are the same
        sides = [generator.normal(0, 2.0, (4, 1)) + generator.normal(0, 2.0, (4, 40)) for _ in range(2)]
        found = compare(*sides, resamples=200, seed=seed)
        covered.append(found.low <= 0 <= found.high)
    assert 0.82 < np.mean(covered) < 0.98  # 86 %, for four seeds are few; over patients alone it is 18 %


def test_seeds_that_agree_leave_the_interval_over_patients():
    scores = np.random.default_rng(6).normal(size=(1, 30))
    one, three = (compare(np.repeat(scores, seeds, axis=0), np.zeros((seeds, 30))) for seeds in (1, 3))
    assert (three.low, three.high) == pytest.approx((one.low, one.high))
    assert (one.low, one.high) == pytest.approx(bootstrap_interval(scores.T))


def test_the_interval_agrees_with_the_normal_one_on_many_patients():
    differences = np.random.default_rng(1).normal(size=400)
    interval = difference_of(differences)
    half_width = 1.96 * differences.std() / 20
    assert interval.low == pytest.approx(differences.mean() - half_width, abs=0.01)
    assert interval.high == pytest.approx(differences.mean() + half_width, abs=0.01)


def test_the_seed_names_the_interval():
    differences = np.random.default_rng(2).normal(size=20)
    assert difference_of(differences, 500, seed=3) == difference_of(differences, 500, seed=3)
    assert difference_of(differences, 500, seed=3) != difference_of(differences, 500, seed=4)


def test_one_patient_has_a_mean_and_no_interval():
    result = compare(np.array([[0.5]]), np.array([[0.25]]))
    assert (result.difference, result.low, result.p_value, result.smallest_detectable) == (0.25, None, None, None)


def test_scans_of_one_patient_do_not_pass_for_patients():
    scores = np.random.default_rng(3).normal(size=(20, 1))
    repeated = np.repeat(scores, 4, axis=0)
    as_patients = bootstrap_interval(repeated, [f"p{i // 4}" for i in range(80)], seed=1)
    as_cases = bootstrap_interval(repeated, seed=1)
    width, too_narrow = np.ptp(as_patients), np.ptp(as_cases)
    assert width == pytest.approx(2 * too_narrow, rel=0.1)  # four copies of each case halve the standard error


def test_an_undefined_score_is_left_out_of_its_structure_only():
    scores = np.array([[0.4, 0.8], [0.4, np.nan], [0.4, 0.8]])
    low, high = bootstrap_interval(scores, resamples=5000)
    assert low == pytest.approx(0.4)  # in 1 of 27 draws nobody has the second structure: more than 2.5 %
    assert high == pytest.approx(0.6)


def test_comparison_averages_seeds_before_it_looks_at_patients():
    a = np.array([[0.8, 0.6, 0.9, 0.7], [0.9, 0.7, 1.0, 0.8]])
    b = np.array([[0.7, 0.6, 0.8, 0.6]])
    result = compare(a, b)
    differences = np.array([0.15, 0.05, 0.15, 0.15])
    assert result.difference == pytest.approx(differences.mean())
    assert result.mean_a - result.mean_b == pytest.approx(result.difference)
    assert result.sd_seeds_a == pytest.approx(np.std([0.75, 0.85], ddof=1))
    assert result.sd_seeds_b is None
    assert (result.seeds_a, result.seeds_b, result.patients) == (2, 1, 4)


def test_rounding_is_no_difference():
    result = compare(np.full((3, 8), 0.1), np.full((2, 8), 0.1))  # (0.1 + 0.1 + 0.1) / 3 > 0.1
    assert np.mean([0.1] * 3) != 0.1
    assert (result.difference, result.low, result.high, result.p_value) == (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("patients", [1, 6, 40])
def test_the_unseen_share_is_clopper_and_pearsons(patients):
    exact = stats.binomtest(0, patients).proportion_ci(0.95, method="exact")
    assert largest_unseen_share(patients) == pytest.approx(exact.high)


def test_signed_rank_by_hand():
    result = compare(np.array([[1.0, 2.0, 3.0, 4.0, 5.0]]), np.zeros((1, 5)))
    assert result.p_value == pytest.approx(2 / 2**5)  # all five positive: one of 32 sign patterns, both tails
    assert compare(np.ones((1, 5)), np.ones((1, 5))).p_value == 1.0


def test_smallest_detectable_difference_is_found_with_the_power_it_claims():
    generator = np.random.default_rng(4)
    noise = generator.normal(0, 1, (4000, 20))
    shift = smallest_detectable_difference(np.sqrt(19 / 20) * np.resize([-1.0, 1.0], 20))
    found = stats.ttest_1samp(noise + shift, 0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.03)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.ones((1, 3)), np.ones((1, 4)), "same patients in both, got 3 and 4"),
        (np.ones((1, 0)), np.ones((1, 0)), "at least one patient"),
        (np.array([[0.5, np.nan]]), np.ones((1, 2)), "1 scores that are NaN"),
        (np.ones(3), np.ones(3), r"shape \(seeds, patients\)"),
    ],
)
def test_what_cannot_be_compared_is_refused(a, b, message):
    with pytest.raises(InputError, match=message):
        compare(a, b)

"""Distances between sets of vectors, against closed forms, plain loops and points placed by hand."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from voxpair.core.errors import RunError
from voxpair.evaluation.pairs.distances import (
    NEIGHBOURS,
    covariance,
    coverage,
    density,
    frechet,
    frechet_of_gaussians,
    kid,
    precision,
    recall,
)

SHARES = (precision, recall, density, coverage)


def gaussian(cases, features, seed, mean=0.0, sd=1.0):
    return np.random.default_rng(seed).normal(mean, sd, (cases, features))


def random_covariance(features, seed):
    root = gaussian(features + 3, features, seed)
    return root.T @ root


# Frechet


def test_frechet_of_two_gaussians_is_the_textbook_formula():
    a, b = random_covariance(6, 0), random_covariance(6, 1)
    mean, other = gaussian(2, 6, 2)
    expected = ((mean - other) ** 2).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert frechet_of_gaussians(mean, a, other, b) == pytest.approx(expected)
    assert frechet_of_gaussians(other, b, mean, a) == pytest.approx(expected)
    assert frechet_of_gaussians(mean, a, mean, a) == pytest.approx(0, abs=1e-9)


def test_frechet_of_large_samples_tends_to_the_one_of_their_distributions():
    """N((2, 0), diag(4, 1)) against N(0, I): 2^2 from the means and (2 - 1)^2 from the spreads."""
    made = gaussian(6000, 2, 0) * [2, 1] + [2, 0]
    assert frechet(made, gaussian(6000, 2, 1)) == pytest.approx(5, rel=0.05)


@pytest.mark.parametrize("features", [1, 3, 200])
def test_a_set_against_itself_has_no_distance_also_with_more_features_than_cases(features):
    points = gaussian(20, features, 0)
    assert frechet(points, points) == pytest.approx(0, abs=1e-8)
    assert kid(points, points) <= 0
    assert [share(points, points) for share in SHARES] == [1, 1, 1, 1]


def test_with_more_features_than_cases_a_shift_still_outweighs_no_shift():
    few, many = gaussian(4, 300, 0), 0.1  # four things vary, seen through 300 features with a little noise
    real, same, shifted = (
        gaussian(30, 4, s, mean=m) @ few + gaussian(30, 300, 9 + s) * many for s, m in enumerate((0, 0, 1.5))
    )
    assert frechet(shifted, real) > 3 * frechet(same, real)
    assert kid(shifted, real) > 10 * abs(kid(same, real))


def test_frechet_cannot_see_what_no_real_case_varies_in_but_the_kernel_distance_can():
    """The stated price of a yardstick from the real side alone."""
    real, same = (np.pad(gaussian(60, 30, seed), ((0, 0), (0, 1))) for seed in (0, 1))
    artefact = same + np.eye(31)[-1] * 9
    assert frechet(artefact, real) == pytest.approx(frechet(same, real))
    assert kid(artefact, real) > kid(same, real) + 1
    assert precision(artefact, real) == 0 < precision(same, real)


def test_frechet_does_not_depend_on_how_the_features_are_turned():
    real = gaussian(30, 40, 0)
    turned = np.linalg.qr(gaussian(40, 40, 1))[0]
    made = gaussian(30, 40, 2)
    assert frechet(made @ turned, real @ turned) == pytest.approx(frechet(made, real))


def test_the_shrunk_covariance_agrees_with_the_paper_and_can_be_inverted():
    points = gaussian(12, 50, 0) * np.linspace(0.1, 3, 50)
    raw = np.cov(points.T, bias=True)
    n, p, size, energy = 12, 50, np.trace(raw), np.trace(raw @ raw)
    share = ((1 - 2 / p) * energy + size**2) / ((n + 1 - 2 / p) * (energy - size**2 / p))  # Chen et al., Eq. 23
    assert 0 < share < 1
    found = covariance(points)
    assert found == pytest.approx((1 - share) * raw + share * size / p * np.eye(p))
    assert np.linalg.eigvalsh(found).min() > 0 and np.trace(found) == pytest.approx(size)


def test_shrinkage_vanishes_with_many_cases_and_is_harmless_for_one_feature():
    points = gaussian(20000, 3, 0) * [1, 2, 4]
    assert covariance(points) == pytest.approx(np.cov(points.T), abs=0.02)
    one = gaussian(10, 1, 0)
    assert covariance(one) == pytest.approx(one.var())
    assert (covariance(np.ones((5, 4))) == 0).all()


def test_shrinkage_comes_nearer_to_the_truth_than_the_raw_covariance():
    truth = np.diag(np.linspace(0.5, 2, 10))
    errors = np.array(
        [
            [((estimate - truth) ** 2).sum() for estimate in (covariance(points), np.cov(points.T))]
            for points in (gaussian(12, 10, seed) @ np.sqrt(truth) for seed in range(50))
        ]
    )
    assert errors[:, 0].mean() < 0.5 * errors[:, 1].mean()


# Kernel distance


def test_kid_agrees_with_a_plain_loop():
    a, b = gaussian(5, 3, 0), gaussian(7, 3, 1, mean=0.5)

    def k(x, y):
        return (float(x @ y) / 3 + 1) ** 3

    within_a = np.mean([k(a[i], a[j]) for i in range(5) for j in range(5) if i != j])
    within_b = np.mean([k(b[i], b[j]) for i in range(7) for j in range(7) if i != j])
    assert kid(a, b) == pytest.approx(within_a + within_b - 2 * np.mean([k(x, y) for x in a for y in b]))


@pytest.mark.parametrize("cases", [4, 30])
def test_kid_of_equal_distributions_is_zero_on_average_whatever_the_sample(cases):
    found = np.array([kid(gaussian(cases, 8, 2 * seed), gaussian(cases, 8, 2 * seed + 1)) for seed in range(600)])
    assert abs(found.mean()) < 3 * found.std() / np.sqrt(600)
    assert 0.2 < (found < 0).mean() < 0.8


# Manifolds


def test_shares_of_points_placed_by_hand():
    """Real points at 0, 1, 3 with k = 1 have balls of radius 1, 1, 2; the synthetic ones, at 0.5 and 9, of 8.5."""
    real, made = np.array([[0.0], [1], [3]]), np.array([[0.5], [9]])
    assert precision(made, real, k=1) == 1 / 2  # 9 lies outside all
    assert recall(made, real, k=1) == 1
    assert density(made, real, k=1) == (2 + 0) / 2  # 0.5 lies in two balls
    assert coverage(made, real, k=1) == 2 / 3  # the ball of 3 reaches from 1 to 5


def test_shares_agree_with_plain_loops():
    real, made = gaussian(25, 2, 0), gaussian(20, 2, 1, mean=0.7)

    def radii(points):
        return [sorted(np.linalg.norm(points - p, axis=1))[NEIGHBOURS] for p in points]

    inside = np.array([[np.linalg.norm(y - x) < r for x, r in zip(real, radii(real))] for y in made])
    back = np.array([[np.linalg.norm(x - y) < r for y, r in zip(made, radii(made))] for x in real])
    expected = [inside.any(1).mean(), back.any(1).mean(), inside.sum(1).mean() / NEIGHBOURS, inside.any(0).mean()]
    assert [share(made, real) for share in SHARES] == pytest.approx(expected)


def test_density_and_coverage_of_equal_distributions_are_as_the_paper_derives():
    """Naeem et al. 2020, Section 3.3: 1 and 1 - (N-1)...(N-k) / (2N-1)...(2N-k), whatever the distribution."""
    n, k = 30, 5
    found = np.array(
        [[share(gaussian(n, 4, s), gaussian(n, 4, 10_000 + s)) for share in (density, coverage)] for s in range(400)]
    )
    factors = np.arange(1, k + 1)
    expected = 1, 1 - np.prod((n - factors) / (2 * n - factors))
    errors = 4 * found.std(axis=0) / np.sqrt(len(found))
    assert (np.abs(found.mean(axis=0) - expected) < errors).all()


def test_one_outlier_enlarges_precision_but_hardly_density():
    """What density is for: a far real case whose ball spans everything lets any synthetic case pass as real."""
    real = np.vstack([gaussian(30, 2, 0), [[40.0, 40.0]]])
    wrong = gaussian(30, 2, 1, mean=9.0, sd=0.5)
    assert precision(wrong, real) == 1
    assert density(wrong, real) <= 1 / NEIGHBOURS


@pytest.mark.parametrize("distance", [frechet, kid, *SHARES])
def test_vectors_of_other_length_are_refused(distance):
    with pytest.raises(RunError, match=r"equally long vectors, got shapes \(9, \d\) and \(9, \d\)"):
        distance(np.zeros((9, 3)), np.zeros((9, 4)))


def test_too_few_cases_are_refused_in_words():
    with pytest.raises(RunError, match="three cases a side, got 2"):
        frechet(np.zeros((2, 3)), np.zeros((9, 3)))
    with pytest.raises(RunError, match="two cases a side"):
        kid(np.zeros((1, 3)), np.zeros((9, 3)))
    with pytest.raises(RunError, match="5 cases have no neighbour number 5; choose k from 1 to 4"):
        precision(np.zeros((9, 3)), np.zeros((5, 3)))

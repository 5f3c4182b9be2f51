"""How far apart are two sets of feature vectors, and does one cover the other? Pure NumPy, no images.

Takes ``synthetic`` (M, D) and ``real`` (N, D); gives one number. More features than cases is the usual state here, so
every function works for D > N.

    number      same distribution     source
    frechet     small, not 0          Heusel et al. 2017: squared 2-Wasserstein distance of two fitted Gaussians
    kid         0 on average          Binkowski et al. 2018: unbiased MMD^2 under the kernel (x.y / D + 1)^3
    precision   near 1                Kynkaanniemi et al. 2019: share of synthetic points inside the real manifold
    recall      near 1                the same: share of real points inside the synthetic manifold
    density     1 on average          Naeem et al. 2020, Eq. 3: in how many real balls a synthetic point lies, over k
    coverage    1 - 2^-k or so        Naeem et al. 2020, Eq. 4: share of real balls that hold a synthetic point

A manifold is the union of open balls, one about each of its points, reaching to the point's k-th nearest neighbour.
Balls are open as in Naeem's own code: a set compared with itself then has density exactly 1.

A covariance of D features cannot be had from N < D cases. So :func:`frechet` first keeps at most N / 3 principal
components and shrinks both covariances (Chen et al. 2010, "Shrinkage algorithms for MMSE covariance estimation",
Eq. 23). The components are those of the *real* set: the yardstick must not depend on what is measured, or two
generators would be measured in two spaces and a bad one could choose its own. They are those of the real cases of this
very comparison, not of all: in the floor the other real cases must be as new to them as synthetic cases are. The price:
what a generator adds at right angles to these components is invisible to ``frechet``. ``kid`` and ``precision`` see it.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist

from voxpair.core.errors import RunError

NEIGHBOURS = 5


def frechet(synthetic: np.ndarray, real: np.ndarray) -> float:
    """Return the Frechet distance within the leading principal components of ``real``.

    Its bias grows as the sets shrink, so two values compare only at equal M and N.
    """
    synthetic, real = _sets(synthetic, real)
    fewest = min(len(synthetic), len(real))
    if fewest < 3:
        raise RunError(f"a Frechet distance needs three cases a side, got {len(synthetic)} and {len(real)}")
    centre = real.mean(axis=0)
    axes = np.linalg.svd(real - centre, full_matrices=False)[2][: fewest // 3]
    made, there = ((points - centre) @ axes.T for points in (synthetic, real))
    return frechet_of_gaussians(made.mean(axis=0), covariance(made), there.mean(axis=0), covariance(there))


def frechet_of_gaussians(
    mean: np.ndarray, spread: np.ndarray, other_mean: np.ndarray, other_spread: np.ndarray
) -> float:
    """Return |m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)) for means (D,) and covariances (D, D).

    >>> frechet_of_gaussians(np.array([0.0]), np.array([[4.0]]), np.array([3.0]), np.array([[1.0]]))
    10.0
    """
    values, vectors = np.linalg.eigh(spread)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    # S S' has the eigenvalues of the symmetric root S' root, which stay real under rounding
    mixed = np.sqrt(np.linalg.eigvalsh(root @ other_spread @ root).clip(0)).sum()
    squared = ((mean - other_mean) ** 2).sum() + np.trace(spread) + np.trace(other_spread) - 2 * mixed
    return float(max(0.0, squared))


def covariance(points: np.ndarray) -> np.ndarray:
    """Return the covariance (D, D) of ``points`` (N, D), shrunk towards a sphere of the same size.

    The share of the sphere is the one of least expected error for Gaussian points (the oracle approximating shrinkage
    of Chen et al.); it goes to 0 as N grows.
    """
    cases, features = points.shape
    raw = np.cov(points, rowvar=False, bias=True).reshape(features, features)
    size, energy = np.trace(raw), (raw**2).sum()
    excess = energy - size**2 / features  # 0 for what is a sphere already
    share = 1.0
    if excess > 1e-12 * energy:
        wanted = (1 - 2 / features) * energy + size**2
        share = min(1.0, wanted / ((cases + 1 - 2 / features) * excess))
    return (1 - share) * raw + share * size / features * np.eye(features)


def kid(synthetic: np.ndarray, real: np.ndarray) -> float:
    """Return the kernel distance, unbiased at any size: for equal distributions it is below 0 about half the time.

    A set against itself is no draw from equal distributions: there it is below 0, never above.
    """
    synthetic, real = _sets(synthetic, real)
    if min(len(synthetic), len(real)) < 2:
        raise RunError(f"a kernel distance needs two cases a side, got {len(synthetic)} and {len(real)}")

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(points: np.ndarray) -> float:
        pairs = kernel(points, points)
        return (pairs.sum() - np.trace(pairs)) / (len(points) * (len(points) - 1))

    return float(within(synthetic) + within(real) - 2 * kernel(synthetic, real).mean())


def precision(synthetic: np.ndarray, real: np.ndarray, k: int = NEIGHBOURS) -> float:
    """Return the share of synthetic points that lie in a ball of a real point.

    >>> line = np.array([[0.0], [1.0], [3.0]])
    >>> precision(np.array([[0.5], [9.0]]), line, k=1)
    0.5
    """
    inside, _ = _balls(synthetic, real, k)
    return float(inside.any(axis=1).mean())


def recall(synthetic: np.ndarray, real: np.ndarray, k: int = NEIGHBOURS) -> float:
    """Return the share of real points that lie in a ball of a synthetic point."""
    return precision(real, synthetic, k)


def density(synthetic: np.ndarray, real: np.ndarray, k: int = NEIGHBOURS) -> float:
    """Return the mean number of real balls about a synthetic point, over k; above 1 where points crowd in modes."""
    inside, k = _balls(synthetic, real, k)
    return float(inside.sum(axis=1).mean() / k)


def coverage(synthetic: np.ndarray, real: np.ndarray, k: int = NEIGHBOURS) -> float:
    """Return the share of real balls that hold a synthetic point."""
    inside, _ = _balls(synthetic, real, k)
    return float(inside.any(axis=0).mean())


def neighbours(cases: int) -> int:
    """Return k for sets of ``cases`` points: 5, and fewer below 20 cases, where five neighbours span the whole set.

    >>> [neighbours(cases) for cases in (4, 11, 20, 500)]
    [1, 2, 5, 5]
    """
    return max(1, min(NEIGHBOURS, cases // 4))


def _balls(points: np.ndarray, centres: np.ndarray, k: int) -> tuple[np.ndarray, int]:
    """Return whether point i lies in the ball of centre j, shape (M, N), and k."""
    points, centres = _sets(points, centres)
    if not 1 <= k < len(centres):
        raise RunError(f"{len(centres)} cases have no neighbour number {k}; choose k from 1 to {len(centres) - 1}")
    radii = np.sort(cdist(centres, centres), axis=1)[:, k]  # column 0 is the point itself
    return cdist(points, centres) < radii, k


def _sets(synthetic: np.ndarray, real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    made, there = np.asarray(synthetic, float), np.asarray(real, float)
    if made.ndim != 2 or there.ndim != 2 or made.shape[1] != there.shape[1]:
        raise RunError(f"expected two sets of equally long vectors, got shapes {made.shape} and {there.shape}")
    return made, there

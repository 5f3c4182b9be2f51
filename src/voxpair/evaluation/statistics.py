"""How sure is a mean, and is one method better than another? The patient is the unit throughout.

Takes arrays of scores, gives numbers that JSON can hold: what cannot be known (a spread from one seed, an interval
from one patient) is None, never NaN. All randomness comes from the ``seed`` argument.

Percentile intervals are somewhat short where there is little to draw from: of 10 patients, those that say 95 % hold
the truth in about 90 %, and two or three seeds show only roughly what another seed may change.

Sources: Efron & Tibshirani 1993, "An Introduction to the Bootstrap", ch. 13 (percentile interval); Owen & Eckles 2012,
Ann. Appl. Stat. 6:895 (drawing the rows and the columns of a table of scores); Hesterberg 2015, Am. Stat. 69:371
(widening a small sample before it is drawn from);
Clopper & Pearson 1934 (share of which nothing was seen); Wilcoxon 1945; Holm 1979;
Julious 2004, Stat. Med. 23:1921 (sample size of a paired comparison).

Shapes: S seeds, P patients, N cases, K structures, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from voxpair.core.errors import InputError
from voxpair.core.run import derive_seed

RESAMPLES = 10_000
LEVEL = 0.95
_DECIMALS = 12  # what lies below is rounding: the mean of three equal scores may differ from that of two
_CHUNK = 1000  # resamples drawn at a time: bounds the memory at 8 kB x patients


@dataclass(frozen=True)
class Comparison:
    """Method a against method b on the same patients.

    Args:
        mean_a, mean_b: mean over seeds and patients.
        difference: ``mean_a - mean_b``.
        low, high: 95 % paired bootstrap interval of the difference, over patients and seeds; None for one patient. With
            a single seed on both sides it is over patients alone.
        p_value: two-sided Wilcoxon signed-rank test on the seed-averaged differences; None for one patient.
        effect_size: mean of the patients' differences over their SD (Cohen's d of paired scores); None where that is 0.
        sd_seeds_a, sd_seeds_b: SD over seeds of the mean over patients; None for a single seed.
        smallest_detectable: mean difference that this test would have shown with 80 % power; None for one patient.
    """

    mean_a: float
    mean_b: float
    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    effect_size: float | None
    sd_seeds_a: float | None
    sd_seeds_b: float | None
    smallest_detectable: float | None
    seeds_a: int
    seeds_b: int
    patients: int


def bootstrap_interval(
    scores: np.ndarray, patients: Sequence[str] | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float | None, float | None]:
    """Return the 95 % percentile interval of the mean over structures of the mean over cases.

    Whole patients are drawn with replacement, so that two scans of one patient do not pass for two patients.

    Args:
        scores: shape (N, K); NaN where a score is undefined, such a score is left out of its structure's mean.
        patients: N names; by default every case is its own patient.

    Returns:
        ``(low, high)``; both None with fewer than two patients.
    """
    names = list(range(len(scores))) if patients is None else list(patients)
    unique, patient_of_case = np.unique(names, return_inverse=True)
    defined = np.isfinite(scores)
    if len(unique) < 2 or not defined.any():
        return None, None
    generator = np.random.default_rng(derive_seed("bootstrap", seed))
    totals = np.zeros((2, len(unique), scores.shape[1]))  # per patient: sum of scores, number of scores
    np.add.at(totals[0], patient_of_case, np.where(defined, scores, 0.0))
    np.add.at(totals[1], patient_of_case, defined)
    means = np.concatenate(
        [_resampled_means(totals, min(_CHUNK, resamples - done), generator) for done in range(0, resamples, _CHUNK)]
    )
    low, high = np.quantile(means[np.isfinite(means)], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _resampled_means(totals: np.ndarray, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """Draw ``resamples`` sets of patients; a structure that no drawn patient has is left out of that draw's mean."""
    patients = totals.shape[1]
    times_drawn = generator.multinomial(patients, np.full(patients, 1 / patients), size=resamples)  # (R, P)
    sums, counts = times_drawn @ totals[0], times_drawn @ totals[1]  # (R, K)
    present = counts > 0
    per_structure = np.divide(sums, counts, out=np.zeros_like(sums), where=present)
    structures = present.sum(axis=1)
    return np.divide(per_structure.sum(axis=1), structures, out=np.full(resamples, np.nan), where=structures > 0)


def by_patient(scores: np.ndarray, patients: Sequence[str]) -> np.ndarray:
    """Return the mean over each patient's cases, what is NaN left out; (N, ...) -> (P, ...), in order of appearance.

    >>> by_patient(np.array([0.2, 0.9, 0.4]), ["a", "b", "a"]).round(6).tolist()
    [0.3, 0.9]
    """
    names = np.asarray(patients)
    return np.stack([mean_of_defined(scores[names == name], axis=0) for name in dict.fromkeys(patients)])


def mean_of_defined(values: np.ndarray, axis: int) -> np.ndarray:
    """Return the mean of what is finite along ``axis``; NaN where nothing is.

    >>> mean_of_defined(np.array([[0.5, np.nan], [1.0, np.nan]]), axis=0).tolist()
    [0.75, nan]
    """
    defined = np.isfinite(values)
    count = defined.sum(axis)
    total = np.where(defined, values, 0.0).sum(axis)
    return np.divide(total, count, out=np.full(np.shape(count), np.nan), where=count > 0)


def largest_unseen_share(patients: int) -> float:
    """Return the largest share of patients that may be otherwise though none of ``patients`` is.

    The upper end of the exact 95 % interval of 0 in n: the p that gives (1 - p)^n = 2.5 %.

    >>> [round(largest_unseen_share(n), 3) for n in (1, 5, 20, 100)]
    [0.975, 0.522, 0.168, 0.036]
    """
    return 1 - ((1 - LEVEL) / 2) ** (1 / patients)


def compare(a: np.ndarray, b: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0) -> Comparison:
    """Compare two methods on the same patients.

    Seeds are averaged before patients are tested: two seeds on one patient are not two patients. The interval draws
    patients, the same for both methods, and the seeds of each method by themselves.

    Args:
        a, b: shapes (S, P); the same patients in the same order, the number of seeds may differ.

    Raises:
        InputError: the patients do not match in number, there is none, or a score is not finite.

    >>> result = compare(np.array([[0.8, 0.9, 0.7]]), np.array([[0.7, 0.8, 0.6]]))
    >>> round(result.difference, 6), result.patients, result.sd_seeds_a
    (0.1, 3, None)
    """
    a, b = _finite(a, axes=2), _finite(b, axes=2)
    if a.shape[1] != b.shape[1]:
        raise InputError(f"a paired comparison needs the same patients in both, got {a.shape[1]} and {b.shape[1]}")
    differences = np.round(a.mean(axis=0) - b.mean(axis=0), _DECIMALS)
    low, high = _interval_of_difference(a, b, resamples, seed)
    return Comparison(
        mean_a=float(a.mean()),
        mean_b=float(b.mean()),
        difference=float(differences.mean()),
        low=low,
        high=high,
        p_value=_signed_rank(differences),
        effect_size=_effect_size(differences),
        sd_seeds_a=sample_sd(a.mean(axis=1)),
        sd_seeds_b=sample_sd(b.mean(axis=1)),
        smallest_detectable=smallest_detectable_difference(differences),
        seeds_a=len(a),
        seeds_b=len(b),
        patients=len(differences),
    )


def _effect_size(differences: np.ndarray) -> float | None:
    """Return the mean of paired differences over their SD.

    >>> _effect_size(np.array([0.0, 1.0, 2.0])), _effect_size(np.array([1.0, 1.0]))
    (1.0, None)
    """
    sd = sample_sd(differences)
    return float(differences.mean()) / sd if sd else None


def _interval_of_difference(
    a: np.ndarray, b: np.ndarray, resamples: int, seed: int
) -> tuple[float | None, float | None]:
    """Return the ends for the mean of a minus that of b, shapes (S, P); None for one patient."""
    patients = a.shape[1]
    if patients < 2:
        return None, None
    of_patients, of_seeds = (
        np.random.default_rng(derive_seed(name, seed)) for name in ("bootstrap", "bootstrap seeds")
    )
    a, b = _widened(a), _widened(b)
    differences = []
    for done in range(0, resamples, _CHUNK):
        draws = min(_CHUNK, resamples - done)
        patient_shares = _shares(patients, draws, of_patients)  # (R, P)
        means = [((patient_shares @ scores.T) * _shares(len(scores), draws, of_seeds)).sum(axis=1) for scores in (a, b)]
        differences.append(means[0] - means[1])
    low, high = np.quantile(np.concatenate(differences), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return round(float(low), _DECIMALS), round(float(high), _DECIMALS)


def _widened(scores: np.ndarray) -> np.ndarray:
    """Spread seeds so that draws of their mean, shape (S, P), vary as much as the mean of other S seeds would."""
    seeds = len(scores)
    mean = scores.mean(axis=0)
    return mean + (scores - mean) * np.sqrt(seeds / max(seeds - 1, 1))


def _shares(count: int, draws: int, generator: np.random.Generator) -> np.ndarray:
    """Draw ``count`` of ``count`` things with replacement; return the share that each has of a draw, (R, count)."""
    return generator.multinomial(count, np.full(count, 1 / count), size=draws) / count


def smallest_detectable_difference(differences: np.ndarray, power: float = 0.8, alpha: float = 0.05) -> float | None:
    """Return the mean paired difference that a two-sided test would find with ``power``; None for one patient.

    (t[1 - alpha/2] + t[power]) SD / sqrt(P), with t quantiles of P - 1 degrees of freedom.

    >>> sd_of_one_hundredth = 0.01 * np.sqrt(50 / 51) * np.resize([-1, 1], 51)
    >>> round(smallest_detectable_difference(sd_of_one_hundredth), 3)
    0.004
    """
    patients = len(differences)
    sd = sample_sd(differences)
    if sd is None:
        return None
    quantiles = stats.t.ppf([1 - alpha / 2, power], df=patients - 1)
    return float(quantiles.sum() * sd / np.sqrt(patients))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for their number by Holm's step-down method, in the order given.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted.tolist()


def sample_sd(values: np.ndarray) -> float | None:
    """Return the sample SD (n - 1) of the finite values, None for fewer than two."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    return float(values.std(ddof=1)) if len(values) > 1 else None


def _signed_rank(differences: np.ndarray) -> float | None:
    if len(differences) < 2:
        return None
    if not differences.any():
        return 1.0  # scipy has no answer where nothing differs; there is no evidence of a difference
    return float(stats.wilcoxon(differences, zero_method="pratt").pvalue)


def _finite(values: np.ndarray, axes: int) -> np.ndarray:
    values = np.asarray(values, float)
    if values.ndim != axes or values.size == 0:
        shape = "(patients,)" if axes == 1 else "(seeds, patients)"
        raise InputError(f"statistics need an array of shape {shape} with at least one patient, got {values.shape}")
    if not np.isfinite(values).all():
        raise InputError(
            f"statistics got {int((~np.isfinite(values)).sum())} scores that are NaN or infinite; "
            "leave the patients out that have no score, and say so"
        )
    return values

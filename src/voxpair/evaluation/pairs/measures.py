"""A measure: one number about a synthetic cohort, beside the same number of real scans against other real scans.

A distance between two sets of cases says nothing by itself: it depends on how many cases there are and on how much
real patients differ. So every measure carries its *floor*, and both are taken from equally large samples: with S
synthetic cases and R real patients, m = min(S, R // 2) of each side are drawn without replacement, ``DRAWS`` times, of
a patient with several scans one; the value is the mean over the draws, the interval their 2.5th to 97.5th percentile.
The floor does the same with m real cases against those of m other patients. The bias that a small sample brings to a
distance is then the same on both sides.

    describe      one case -> what a metric needs of it, small enough to keep for every case
    compare_sets  two lists of descriptions and a distance between lists -> a measure
    compare_means a number per case -> its mean over synthetic, and over real cases as the floor

The interval of a mean is over patients (see ``statistics``). Where all patients of a side have the same value, drawing
them again shows no spread, but those not seen may have others: of n patients, a share that ``largest_unseen_share``
bounds, with values anywhere between the least and the largest of both sides. So an interval without width is left
only where all values of both sides are equal.

Cases without a number (NaN) are left out and counted in ``note``; a measure that cannot be known has value None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from voxpair.core.run import derive_seed, read_json
from voxpair.evaluation.statistics import bootstrap_interval, largest_unseen_share

DRAWS = 20
FEWEST = 4  # cases a side below which a distance between sets is not worth a number
_ROUNDING = 1e-12
Group = Literal["fidelity", "diversity", "texture", "plausibility", "alignment"]
Better = Literal["lower", "higher", "floor"]
Description = TypeVar("Description")


@dataclass(frozen=True)
class Measure:
    """One number; what it means stands in docs/evaluation.md under its group and name.

    Args:
        value, low, high: of the synthetic cases and its 95 % interval; None where it cannot be known.
        floor, floor_low, floor_high: the same of real cases against real cases.
        better: the direction that is good; "floor" is as near as possible to what real cases show.
        structure, view: what it is about; None for all.
        unit: "" for a pure number.
        synthetic_cases, real_cases: a side of a single draw, or all that entered a mean.
        note: what a reader must know, such as why there is no value; "" for nothing.
    """

    group: Group
    name: str
    value: float | None
    low: float | None
    high: float | None
    floor: float | None
    floor_low: float | None
    floor_high: float | None
    better: Better
    synthetic_cases: int
    real_cases: int
    structure: str | None = None
    view: str | None = None
    unit: str = ""
    note: str = ""


def read_measures(path: Path) -> list[Measure]:
    """Read the measures of a ``pairs.json``."""
    return [Measure(**record) for record in read_json(path)["measures"]]


def compare_sets(
    group: Group,
    name: str,
    distance: Callable[[Sequence[Description], Sequence[Description]], float],
    synthetic: Sequence[Description],
    real: Sequence[Description],
    *,
    patients: Sequence[str] | None = None,
    better: Better = "lower",
    structure: str | None = None,
    view: str | None = None,
    unit: str = "",
    seed: int = 0,
) -> Measure:
    """Measure ``distance(synthetic, real)`` and its floor ``distance(real, other real)`` on equal samples.

    Args:
        patients: whose the real cases are; by default every case is its own patient.

    >>> gap = lambda a, b: abs(float(np.mean(a)) - float(np.mean(b)))
    >>> found = compare_sets("fidelity", "gap", gap, [2.0] * 8, [1.0] * 16)
    >>> found.value, found.floor, found.synthetic_cases
    (1.0, 0.0, 8)
    """
    scans = scans_by_patient(range(len(real)) if patients is None else patients)
    size = min(len(synthetic), len(scans) // 2)
    if size < FEWEST:
        note = f"too few cases: {len(synthetic)} synthetic and {len(scans)} real; {FEWEST} and {2 * FEWEST} are needed"
        empty = (None,) * 6
        return Measure(group, name, *empty, better, len(synthetic), len(real), structure, view, unit, note)
    generator = np.random.default_rng(derive_seed("measure", name, structure, view, seed))
    values, floors = [], []
    for _ in range(DRAWS):
        made = generator.permutation(len(synthetic))[:size]
        there = [scans[patient] for patient in generator.permutation(len(scans))[: 2 * size]]
        drawn = [real[own[0] if len(own) == 1 else generator.choice(own)] for own in there]
        first, second = drawn[:size], drawn[size:]
        values.append(distance([synthetic[i] for i in made], first))
        floors.append(distance(second, first))
    return Measure(
        group, name, *_summary(values), *_summary(floors), better, size, size, structure, view, unit, _left_out(values)
    )


def scans_by_patient(patients: Iterable[Any]) -> list[list[int]]:
    """Return the positions of each patient's cases, patients in order of appearance.

    >>> scans_by_patient(["a", "b", "a"])
    [[0, 2], [1]]
    """
    found: dict[Any, list[int]] = {}
    for position, patient in enumerate(patients):
        found.setdefault(patient, []).append(position)
    return list(found.values())


def compare_means(
    group: Group,
    name: str,
    synthetic: Sequence[float],
    real: Sequence[float],
    *,
    patients: tuple[Sequence[str], Sequence[str]] | None = None,
    better: Better = "floor",
    structure: str | None = None,
    view: str | None = None,
    unit: str = "",
    seed: int = 0,
) -> Measure:
    """Return the mean over synthetic cases with its interval over patients, and over real cases as the floor.

    Args:
        patients: whose the synthetic and the real cases are; by default every case is its own patient.

    >>> found = compare_means("plausibility", "parts", [1.0, 3.0], [1.0, 1.0, float("nan")])
    >>> found.value, found.floor, found.note
    (2.0, 1.0, 'left out as undefined: 0 synthetic, 1 real')
    """
    names = [np.asarray(side, str) for side in patients or (range(len(synthetic)), range(len(real)))]
    sides = [np.asarray(values, float) for values in (synthetic, real)]
    known = [np.isfinite(values) for values in sides]
    missing = [int((~kept).sum()) for kept in known]
    note = f"left out as undefined: {missing[0]} synthetic, {missing[1]} real" if any(missing) else ""
    sides, names = ([array[kept] for array, kept in zip(arrays, known)] for arrays in (sides, names))
    every = np.concatenate(sides)
    ends = [end for values, whose in zip(sides, names) for end in _mean(values, whose, every, seed)]
    counts = len(sides[0]), len(sides[1])
    return Measure(group, name, *ends, better, *counts, structure, view, unit, note)


def _summary(draws: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    finite = np.array([value for value in draws if np.isfinite(value)])
    if not finite.size:
        return None, None, None
    low, high = np.quantile(finite, [0.025, 0.975])
    return float(finite.mean()), float(low), float(high)


def _left_out(draws: Sequence[float]) -> str:
    bad = sum(not np.isfinite(value) for value in draws)
    return f"{bad} of {len(draws)} draws gave no number" if bad else ""


def _mean(
    values: np.ndarray, patients: np.ndarray, every: np.ndarray, seed: int
) -> tuple[float | None, float | None, float | None]:
    """Return the mean of ``values`` and its interval; ``every`` value of both sides says how far one may reach."""
    if not values.size:
        return None, None, None
    least, largest = float(every.min()), float(every.max())
    mean = float(np.clip(values.mean(), least, largest))  # that of equal values may be rounded past them
    unique, patient_of_case = np.unique(patients, return_inverse=True)
    means = np.bincount(patient_of_case, values) / np.bincount(patient_of_case)
    if len(unique) > 1 and np.allclose(means, mean, rtol=_ROUNDING, atol=0):
        share = largest_unseen_share(len(unique))
        return mean, mean + share * (least - mean), mean + share * (largest - mean)
    return (mean, *bootstrap_interval(values[:, None], patients, seed=seed))

"""Do synthetic cases look like real ones, and like how many of them? Measured between two sets of image features.

Takes an :class:`Extractor` and cases one at a time; gives measures, each beside its real-against-real floor.

    measure                       of                      good is   sees
    frechet, kid                  each view, their mean   lower     any difference of the two distributions
    precision, density            the views joined        higher    synthetic cases unlike any real one
    recall, coverage              the views joined        higher    real cases that no synthetic one is like

Each feature is counted in SDs of all real cases, so that no channel outweighs the others by its scale
alone and the numbers of two extractors have one order of magnitude. An SD below a tenth of the typical one is raised to
that: what few real cases hardly vary in must not outweigh all else.

A distance under one extractor cannot be compared with one under another, so each measure names its extractor. A feature
network trained on photographs or on other radiographs may rank generators otherwise than readers do (Woodland et al.
2024, arXiv 2311.13717), so the default is the encoder of a segmenter fitted on real cases only; never one that was
pre-trained on the synthetic cases it judges.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from voxpair.core.case import Case
from voxpair.core.errors import InputError, RunError
from voxpair.core.interfaces import Extractor
from voxpair.evaluation.pairs import distances
from voxpair.evaluation.pairs.measures import Measure, compare_sets

VIEWS = ("axial", "coronal", "sagittal")
FEW = 50  # cases a side of a draw below which a Frechet distance says more about the sample size than the images


@dataclass(frozen=True, eq=False)
class FidelityFacts:
    """What is kept of a case: a vector of length D, float32, for each of the three views, and whose it is."""

    extractor: str
    digest: str
    views: Mapping[str, np.ndarray]


def describe(case: Case, extractor: Extractor) -> FidelityFacts:
    """Return the features of one case.

    Raises:
        RunError: the extractor breaks its contract: a view is missing, not a vector, or not finite.
    """
    found = extractor.features(case)
    for view in VIEWS:
        vector = found.get(view)
        if vector is None or vector.ndim != 1 or not np.isfinite(vector).all():
            what = "nothing" if vector is None else f"an array of shape {vector.shape}, or values that are not finite"
            raise RunError(
                f"case {case.name}: {extractor.name} gave {what} for view {view!r}; expected a finite vector"
            )
    return FidelityFacts(extractor.name, extractor.digest, {view: found[view].astype(np.float32) for view in VIEWS})


def compare(
    synthetic: Sequence[FidelityFacts],
    real: Sequence[FidelityFacts],
    seed: int = 0,
    *,
    patients: Sequence[str] | None = None,
) -> list[Measure]:
    """Return twelve measures: Frechet and kernel distance by view and over views, and the four of manifolds.

    Args:
        patients: whose the real cases are; by default every case is its own patient.

    Raises:
        InputError: the cases were not all described with one extractor.
    """
    extractors = {facts.digest: facts.extractor for facts in (*synthetic, *real)}
    if len(extractors) > 1:
        raise InputError(f"features of different extractors cannot be compared: {', '.join(extractors.values())}")
    if real:
        synthetic, real = (_scaled(facts, real) for facts in (synthetic, real))
    measure = partial(compare_sets, "fidelity", synthetic=synthetic, real=real, patients=patients, seed=seed)
    by = f"features of {next(iter(extractors.values()), 'no extractor')}"
    found = []
    for name, distance in (("frechet", distances.frechet), ("kid", distances.kid)):
        whole = _noted(measure(name, partial(_over_views, distance)), by)
        parts = [_noted(measure(name, partial(_of_view, distance, view), view=view), by) for view in VIEWS]
        found += [whole, *parts]
    k = distances.neighbours(whole.synthetic_cases)
    for share in (distances.precision, distances.recall, distances.density, distances.coverage):
        shown = measure(share.__name__, partial(_joined, share, k), better="higher")
        found.append(_noted(shown, f"k = {k}; {by}"))
    return found


def _of_view(
    distance: Callable[[np.ndarray, np.ndarray], float],
    view: str,
    synthetic: Sequence[FidelityFacts],
    real: Sequence[FidelityFacts],
) -> float:
    return distance(*(np.stack([facts.views[view] for facts in side]) for side in (synthetic, real)))


def _over_views(
    distance: Callable[[np.ndarray, np.ndarray], float],
    synthetic: Sequence[FidelityFacts],
    real: Sequence[FidelityFacts],
) -> float:
    return float(np.mean([_of_view(distance, view, synthetic, real) for view in VIEWS]))


def _joined(
    share: Callable[..., float], k: int, synthetic: Sequence[FidelityFacts], real: Sequence[FidelityFacts]
) -> float:
    made, there = (np.stack([np.concatenate([f.views[v] for v in VIEWS]) for f in side]) for side in (synthetic, real))
    return share(made, there, k)


def _scaled(facts: Sequence[FidelityFacts], real: Sequence[FidelityFacts]) -> list[FidelityFacts]:
    """Return ``facts`` with every feature about its mean over ``real`` and in SDs of ``real``."""
    scales = {}
    for view in VIEWS:
        there = np.stack([case.views[view] for case in real]).astype(float)
        spread = there.std(axis=0)
        scales[view] = there.mean(axis=0), np.maximum(spread, 0.1 * np.sqrt((spread**2).mean()) or 1.0)
    return [
        replace(case, views={view: (case.views[view] - mean) / spread for view, (mean, spread) in scales.items()})
        for case in facts
    ]


def _noted(found: Measure, by: str) -> Measure:
    """Add what made the number, and a warning where so few cases make it rough."""
    notes = [found.note, by]
    if found.name == "frechet" and found.value is not None and found.synthetic_cases < FEW:
        notes.insert(1, f"{found.synthetic_cases} cases a side: sample size dominates; go by kid and by the floor")
    return replace(found, note="; ".join(filter(None, notes)))

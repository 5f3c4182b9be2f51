"""Do synthetic cases differ from each other as much as real ones do? Structural similarity within random pairs.

Takes a thumbnail of each case; gives a measure whose value is the mean similarity of two synthetic cases and whose
floor is that of two real ones. Above the floor the generator repeats itself; below it, its cases differ in more than
anatomy does, such as in noise.

    name      sides of the common grid   scales, each half as fine as the one before
    ms_ssim   all of 44 voxels or more   3, with the first three weights of Wang et al., rescaled to sum 1
    ms_ssim   all of 22 to 43            2, the same
    ssim      smaller                    1; the window is cut where a volume is thinner than it

Sources: Wang et al. 2003, "Multiscale structural similarity" (Gaussian window of 11 voxels, SD 1.5; five scales would
need a side of 176); Pinaya et al. 2022 use it as a measure of diversity.

Memory: a thumbnail is at most 48 voxels a side in float16, so 0.2 MB a case.

Shapes: X Y Z volume axes of a RAS volume, N cases, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations

import nibabel as nib
import numpy as np
import torch
from monai.metrics import MultiScaleSSIMMetric

from voxpair.cohorts.geometry import resample
from voxpair.cohorts.preprocess import Preprocessor, PreprocessSettings
from voxpair.core.case import Case
from voxpair.core.run import derive_seed
from voxpair.evaluation.pairs.measures import FEWEST, Measure, scans_by_patient

LARGEST_SIDE = 48  # three scales still fit; a pair takes a third of a second, at 64 it would take a whole one
PAIRS = 100  # a side; their mean is then known to a tenth of the spread of single pairs
RESAMPLES = 2000
_WINDOW = 11
_WEIGHTS = (0.0448, 0.2856, 0.3001)


def describe(case: Case, modality: str) -> np.ndarray:
    """Return the whole image as a RAS thumbnail (X, Y, Z), float16 in [0, 1], at most 48 voxels a side.

    CT is scaled by one window for all cases; other modalities have no common unit, and each volume is scaled by its
    own robust range, as for the networks.
    """
    orientation = nib.orientations.io_orientation(case.affine)
    sides = np.array(case.image.shape)[np.argsort(orientation[:, 0])]
    grid = tuple(int(side) for side in np.minimum(sides, LARGEST_SIDE))
    preprocessor = Preprocessor(PreprocessSettings(grid=grid), case.label_table, modality)
    return preprocessor.forward(replace(case, labels=None)).image.astype(np.float16)


def compare(
    synthetic: Sequence[np.ndarray],
    real: Sequence[np.ndarray],
    seed: int = 0,
    *,
    patients: Sequence[str] | None = None,
) -> list[Measure]:
    """Return the mean structural similarity within at most 100 pairs of synthetic cases, and of real ones as the floor.

    Args:
        patients: whose the real cases are; by default every case is its own patient.

    All thumbnails come onto the grid of the smallest first: fine detail that only one side can hold is no diversity.
    """
    people = len(scans_by_patient(range(len(real)) if patients is None else patients))
    if min(len(synthetic), people) < FEWEST:
        note = f"too few cases: {len(synthetic)} synthetic and {people} real; {FEWEST} of each are needed"
        return [Measure("diversity", "ms_ssim", *(None,) * 6, "floor", len(synthetic), len(real), note=note)]
    x, y, z = (int(side) for side in np.min([volume.shape for volume in (*synthetic, *real)], axis=0))
    scales = max(1, sum(min(x, y, z) >= _WINDOW * 2**halvings for halvings in range(len(_WEIGHTS))))
    weights = np.array(_WEIGHTS[:scales]) / sum(_WEIGHTS[:scales])
    measure = MultiScaleSSIMMetric(
        3, kernel_size=[min(_WINDOW, side) for side in (x, y, z)], weights=weights.tolist(), reduction="none"
    )

    def similarity(a: np.ndarray, b: np.ndarray) -> float:
        return float(measure(*(torch.from_numpy(_onto(volume, (x, y, z)))[None, None] for volume in (a, b))))

    name = "ms_ssim" if scales > 1 else "ssim"
    note = f"{scales} scale{'s' * (scales > 1)} on a grid of {x} x {y} x {z} voxels"
    return [compare_pairs(name, similarity, synthetic, real, patients=patients, note=note, seed=seed)]


def compare_pairs(
    name: str,
    similarity: Callable[[np.ndarray, np.ndarray], float],
    synthetic: Sequence[np.ndarray],
    real: Sequence[np.ndarray],
    *,
    patients: Sequence[str] | None = None,
    note: str = "",
    seed: int = 0,
) -> Measure:
    """Measure the mean of ``similarity`` over pairs of synthetic cases, and over pairs of real cases as the floor.

    Two scans of one patient are no pair. The interval resamples patients, not pairs: the pairs that share a patient are
    not independent.

    Args:
        patients: whose the real cases are; by default every case is its own patient.

    >>> found = compare_pairs("gap", lambda a, b: abs(a - b), [1.0] * 5, [0.0, 0.0, 2.0, 2.0])
    >>> found.value, round(found.floor, 3), found.note
    (0.0, 1.333, '10 synthetic and 6 real pairs')
    """
    ends, counts = [], []
    whose = (range(len(synthetic)), range(len(real)) if patients is None else patients)
    for side, cases, owners in zip(("synthetic", "real"), (synthetic, real), whose):
        generator = np.random.default_rng(derive_seed("pairs", name, side, seed))
        scans = scans_by_patient(owners)
        owner = {case: patient for patient, own in enumerate(scans) for case in own}
        apart = [(i, j) for i, j in combinations(range(len(cases)), 2) if owner[i] != owner[j]]
        pairs = generator.permutation(np.array(apart))[:PAIRS]
        found = np.array([similarity(cases[i], cases[j]) for i, j in pairs])
        owners_of_pairs = np.array([[owner[i], owner[j]] for i, j in pairs])
        ends += [float(found.mean()), *_interval(found, owners_of_pairs, len(scans), generator)]
        counts.append(len(pairs))
    drawn = f"{counts[0]} synthetic and {counts[1]} real pairs"
    note = "; ".join(filter(None, [note, drawn]))
    return Measure("diversity", name, *ends, "floor", len(synthetic), len(real), note=note)


def _interval(
    found: np.ndarray, pairs: np.ndarray, patients: int, generator: np.random.Generator
) -> tuple[float, float]:
    """Return the 95 % percentile interval: a pair (two patients) counts as often as both of them are drawn."""
    drawn = generator.multinomial(patients, np.full(patients, 1 / patients), size=RESAMPLES)
    weights = drawn[:, pairs[:, 0]] * drawn[:, pairs[:, 1]]  # (resamples, P)
    total = weights.sum(axis=1)
    means = (weights @ found)[total > 0] / total[total > 0]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def _onto(volume: np.ndarray, grid: tuple[int, int, int]) -> np.ndarray:
    step = tuple(before / after for before, after in zip(volume.shape, grid))
    return resample(volume.astype(np.float32), grid, step)

"""Do synthetic cases look as different from each other as real ones do? LPIPS, a perceptual distance, in random pairs.

Takes slices of each case and a :class:`FeatureNetwork` with taps (AlexNet or SqueezeNet); gives a measure whose value
is the mean distance of two synthetic cases and whose floor is that of two real ones. Below the floor the generator
repeats itself.

The distance of two slices is the squared difference of unit-length feature vectors, weighted, summed over channels,
averaged over the slice and summed over the taps (Zhang et al. 2018, Eq. 1); that of two cases is the mean over four
slices of each view, at the same places in both.

    name                         the weights file holds
    lpips_NETWORK                LPIPS' linear weights (``lin0.model.1.weight`` ...) besides those of the network
    lpips_NETWORK_unit_weights   those of the network alone: every channel counts 1

Shapes: N slices, C channels, H W axes of a slice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from voxpair.core.case import Case
from voxpair.core.errors import InputError
from voxpair.evaluation.pairs.diversity import compare_pairs
from voxpair.evaluation.pairs.measures import FEWEST, Measure, scans_by_patient
from voxpair.evaluation.pairs.perceptual import ARCHITECTURES, FeatureNetwork, view_slices

SLICES = 4  # a view; 1.2 MB a case at 224 x 224


def describe(case: Case, network: FeatureNetwork, modality: str) -> np.ndarray:
    """Return the slices of one case, (N, H, W) float16 in [0, 1], N = 12."""
    slices = view_slices(case, modality, network.architecture.side, SLICES)
    return np.concatenate(list(slices.values())).astype(np.float16)


def compare(
    synthetic: Sequence[np.ndarray],
    real: Sequence[np.ndarray],
    network: FeatureNetwork,
    seed: int = 0,
    *,
    patients: Sequence[str] | None = None,
) -> Measure:
    """Return the mean LPIPS within at most 100 pairs of synthetic cases, and of real ones as the floor.

    Args:
        patients: whose the real cases are; by default every case is its own patient.
    """
    name = measure_name(network)
    note = f"weights {network.digest[:12]}"
    people = len(scans_by_patient(range(len(real)) if patients is None else patients))
    if min(len(synthetic), people) < FEWEST:
        note = f"too few cases: {len(synthetic)} synthetic and {people} real; {FEWEST} of each are needed; {note}"
        return Measure("diversity", name, *(None,) * 6, "floor", len(synthetic), len(real), note=note)
    return compare_pairs(
        name, lambda a, b: distance(network, a, b), synthetic, real, patients=patients, note=note, seed=seed
    )


def measure_name(network: FeatureNetwork) -> str:
    """Return the measure's name, which says whether LPIPS' linear weights were there."""
    if not network.architecture.taps:
        able = ", ".join(name for name, architecture in ARCHITECTURES.items() if architecture.taps)
        raise InputError(f"LPIPS is not defined for {network.name}; choose one of {able}")
    return f"lpips_{network.name}" if network.linear else f"lpips_{network.name}_unit_weights"


def distance(network: FeatureNetwork, a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean LPIPS distance of slices ``a`` and ``b``, both (N, H, W) in [0, 1]; 0 for the same slices."""
    ours, theirs = (network.maps(torch.from_numpy(slices.astype(np.float32)))[:-1] for slices in (a, b))
    total = 0.0
    for tap, (one, other) in enumerate(zip(ours, theirs)):
        squared = (_unit(one) - _unit(other)).square()
        if network.linear:
            squared = squared * network.linear[tap][:, None, None]
        total += float(squared.sum(dim=1).mean())
    return total


def _unit(features: Tensor) -> Tensor:
    """Return features (N, C, H, W) of length 1 at every place; where all are 0 they stay 0."""
    return features / (features.norm(dim=1, keepdim=True) + 1e-10)

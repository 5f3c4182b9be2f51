"""Do synthetic images have the texture of real ones? Noise, intensities and sharpness, per structure.

    describe    one labelled case -> TextureFacts, a few hundred numbers
    compare     facts of synthetic and of real cases -> measures, each with its real-against-real floor
    curves      the same facts -> histograms and noise power spectra, to be drawn

    measure                what it is, per structure                                                          good is
    noise_ratio            median SD of the noise, synthetic over real; below 1 is over-smooth                as floor
    noise_power_distance   root mean square difference in dB of the mean log spectra, where both are known    low
    noise_frequency        mean frequency of the spectrum, per mm                                             as floor
    intensity_distance     Wasserstein-1 distance of the intensities, every case counting the same            low
    edge_width             median 10-90 % width in mm of the edges along the label's surface                  as floor

Noise is defined in ``noise``, edges in ``edges``; across thick slices the slice is the width, so edges are measured
within them. A measure without a structure is the mean over structures (of the distances, over those that at least half
of the cases have: one small appendage must not speak for a cohort). Given scans and their reconstructions instead of
real and synthetic cases, the same numbers say what an autoencoder loses. What a voxel can show depends on its size:
compare cohorts of one spacing; where they differ, the notes say so.

Intensities are HU for CT. MRI has no unit: each image is scaled to median 0 and interquartile range 1 of its
foreground, the voxels brighter than a tenth of the way from its 1st to its 99th percentile.

Shapes: X Y Z volume axes, F frequencies, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from scipy.stats import wasserstein_distance

from voxpair.core.case import Case
from voxpair.core.errors import InputError
from voxpair.evaluation.pairs.edges import Edges, edges_of, thick_axes
from voxpair.evaluation.pairs.measures import Measure, compare_means, compare_sets
from voxpair.evaluation.pairs.noise import Noise, find_noise

QUANTILES = (np.arange(100) + 0.5) / 100
FEWEST_EDGES = 20
_POINTS = 16
_BINS = 40
_ACROSS = 0.4  # sine of the largest angle between an edge's normal and the plane of thick slices
_FAINTEST = 1e-6  # power of noise of SD 0.001 in voxels of 1 mm^3: an image without noise is far off, not undefined


@dataclass(frozen=True)
class Tissue:
    """One structure of one case; what cannot be known there is None.

    Args:
        levels: (Q,) quantiles of the intensities; None where the structure is absent.
        noise: None where too few voxels lie inside.
        edge_width_mm: None where too few edges were found.
    """

    levels: np.ndarray | None = None
    noise: Noise | None = None
    edge_width_mm: float | None = None

    @property
    def noise_frequency_per_mm(self) -> float | None:
        return self.noise.mean_frequency_per_mm if self.noise else None


@dataclass(frozen=True)
class TextureFacts:
    """What is kept of one case: every structure of its label table, and the unit of its intensities."""

    case: str
    patient: str
    unit: str
    voxel_mm: float
    tissues: Mapping[str, Tissue]


def describe(case: Case, modality: str, edges: Mapping[str, Edges] | None = None) -> TextureFacts:
    """Return the texture of a labelled case.

    Args:
        modality: "CT" keeps HU, any other scales the intensities (see the module).
        edges: :func:`~voxpair.evaluation.pairs.edges.edges_of` the case, if they are known already.

    Raises:
        InputError: the case has no labels, or its image is one flat level that cannot be scaled.
    """
    if case.labels is None:
        raise InputError(f"case {case.name}: texture is measured per structure, so the case needs labels")
    spacing = np.array(case.spacing_mm)
    image = case.image if modality == "CT" else _scaled(case)
    edges = edges_of(case) if edges is None else edges  # scaling an image moves no edge
    tissues = {
        structure.name: _tissue(image, case.labels == structure.value, spacing, edges.get(structure.name))
        for structure in case.label_table.structures
    }
    unit = "HU" if modality == "CT" else ""
    return TextureFacts(case.name, case.patient, unit, float(spacing.prod() ** (1 / 3)), tissues)


def _scaled(case: Case) -> np.ndarray:
    low, high = np.percentile(case.image, (1, 99))
    foreground = case.image[case.image > low + 0.1 * (high - low)]
    quarter, median, three_quarters = np.percentile(foreground, (25, 50, 75)) if foreground.size else (0, 0, 0)
    if not three_quarters > quarter:
        raise InputError(
            f"case {case.name}: half of the image or more is one flat level, so its intensities have no scale; "
            "look at the image, and leave the case out if it is broken"
        )
    return (case.image - median) / (three_quarters - quarter)


def _tissue(image: np.ndarray, mask: np.ndarray, spacing: np.ndarray, edges: Edges | None) -> Tissue:
    if edges is None:
        return Tissue()
    across = np.linalg.norm(edges.normals[:, thick_axes(spacing)], axis=1)
    usable = edges.found & (across < _ACROSS)
    return Tissue(
        levels=np.quantile(image[mask], QUANTILES),
        noise=find_noise(image, mask, spacing),
        edge_width_mm=float(np.median(edges.width_mm[usable])) if usable.sum() >= FEWEST_EDGES else None,
    )


def compare(synthetic: Sequence[TextureFacts], real: Sequence[TextureFacts], seed: int = 0) -> list[Measure]:
    """Return every measure of the module, over all structures and then for each.

    Raises:
        InputError: the cases have other structures or other units.
    """
    names, unit = _common([*synthetic, *real])
    sets: list[tuple[str, str, Any, Callable[[Sequence[Tissue], Sequence[Tissue]], float]]] = [
        ("noise_ratio", "", "noise", noise_ratio),
        ("noise_power_distance", "dB", "noise", noise_power_distance),
        ("intensity_distance", unit, "levels", intensity_distance),
    ]
    means = [("noise_frequency", "1/mm", "noise_frequency_per_mm"), ("edge_width", "mm", "edge_width_mm")]
    patients = tuple([facts.patient for facts in side] for side in (synthetic, real))
    mean = partial(compare_means, "texture", patients=patients, seed=seed)
    found = []
    for name, unit_of_measure, attribute, distance in sets:
        for structure in (None, *names):
            wanted = names if structure is None else (structure,)
            sides = [[facts for facts in side if _has(facts, wanted, attribute)] for side in (synthetic, real)]
            measure = compare_sets(
                "texture",
                name,
                _over_structures(distance, wanted, attribute),
                *sides,
                patients=[facts.patient for facts in sides[1]],
                better="floor" if name == "noise_ratio" else "lower",
                structure=structure,
                unit=unit_of_measure,
                seed=seed,
            )
            found.append(_noted(measure, len(synthetic) - len(sides[0]), len(real) - len(sides[1])))
    for name, unit_of_measure, attribute in means:
        for structure in (None, *names):
            wanted = names if structure is None else (structure,)
            values = [[_mean(facts, wanted, attribute) for facts in side] for side in (synthetic, real)]
            found.append(mean(name, *values, structure=structure, unit=unit_of_measure))
    return _warned(found, synthetic, real)


def noise_ratio(first: Sequence[Tissue], second: Sequence[Tissue]) -> float:
    """Return the median SD of the noise of ``first`` over that of ``second``; NaN where the second has no noise."""
    ours, theirs = (np.median([tissue.noise.sd for tissue in side]) for side in (first, second))
    return float(ours / theirs) if theirs > 0 else np.nan


def noise_power_distance(first: Sequence[Tissue], second: Sequence[Tissue]) -> float:
    """Return the root mean square difference in dB of the mean log spectra, over the frequencies that all have."""
    frequencies = _shared_frequencies([*first, *second])
    if frequencies is None:
        return np.nan
    ours, theirs = (_decibels(side, frequencies) for side in (first, second))
    return float(np.sqrt(np.mean((ours - theirs) ** 2)))


def intensity_distance(first: Sequence[Tissue], second: Sequence[Tissue]) -> float:
    """Return the Wasserstein-1 distance of the intensities; every case counts the same, however large.

    >>> level = lambda value: Tissue(levels=np.full(100, value))
    >>> intensity_distance([level(30.0)], [level(0.0), level(10.0)])
    25.0
    """
    return float(
        wasserstein_distance(*(np.concatenate([tissue.levels for tissue in side]) for side in (first, second)))
    )


def _shared_frequencies(tissues: Sequence[Tissue]) -> np.ndarray | None:
    low = max(tissue.noise.frequency_per_mm[0] for tissue in tissues)
    high = min(tissue.noise.frequency_per_mm[-1] for tissue in tissues)
    return np.linspace(low, high, _POINTS) if low < high else None


def _decibels(tissues: Sequence[Tissue], frequencies: np.ndarray) -> np.ndarray:
    """Return the mean log spectrum of the cases at ``frequencies``."""
    noises = [tissue.noise for tissue in tissues]
    logs = [10 * np.log10(np.maximum(noise.power, _FAINTEST)) for noise in noises]
    return np.mean([np.interp(frequencies, noise.frequency_per_mm, log) for noise, log in zip(noises, logs)], axis=0)


def _common(facts: Sequence[TextureFacts]) -> tuple[tuple[str, ...], str]:
    kinds = list(dict.fromkeys((tuple(f.tissues), f.unit) for f in facts))
    if len(kinds) > 1:
        raise InputError(f"texture is compared between cases of one label table and modality, got {kinds}")
    return kinds[0] if kinds else ((), "")


def _present(facts: Iterable[TextureFacts], structure: str, attribute: str) -> list[Tissue]:
    tissues = (f.tissues[structure] for f in facts)
    return [tissue for tissue in tissues if getattr(tissue, attribute) is not None]


def _has(facts: TextureFacts, structures: Sequence[str], attribute: str) -> bool:
    return any(_present([facts], name, attribute) for name in structures)


def _mean(facts: TextureFacts, structures: Sequence[str], attribute: str) -> float:
    values = [getattr(tissue, attribute) for name in structures for tissue in _present([facts], name, attribute)]
    return float(np.mean(values)) if values else np.nan


def _over_structures(
    distance: Callable[[Sequence[Tissue], Sequence[Tissue]], float], structures: Sequence[str], attribute: str
) -> Callable[[Sequence[TextureFacts], Sequence[TextureFacts]], float]:
    """Return the mean of ``distance`` over the structures that at least half of the cases have, on both sides."""

    def mean(first: Sequence[TextureFacts], second: Sequence[TextureFacts]) -> float:
        pairs = [[_present(side, name, attribute) for side in (first, second)] for name in structures]
        common = [(a, b) for a, b in pairs if 2 * len(a) >= len(first) and 2 * len(b) >= len(second)]
        found = np.array([distance(*pair) for pair in common])
        found = found[np.isfinite(found)]
        return float(found.mean()) if found.size else np.nan

    return mean


def _noted(measure: Measure, synthetic: int, real: int) -> Measure:
    """Add how many cases did not have what the measure needs."""
    if not synthetic and not real:
        return measure
    missing = f"left out as absent or too small: {synthetic} synthetic, {real} real"
    return replace(measure, note="; ".join(filter(None, (measure.note, missing))))


def _warned(measures: list[Measure], synthetic: Sequence[TextureFacts], real: Sequence[TextureFacts]) -> list[Measure]:
    """Add to noise and edges that the voxels of the two sides differ in size, where they do."""
    if not synthetic or not real:
        return measures
    ours, theirs = (float(np.median([facts.voxel_mm for facts in side])) for side in (synthetic, real))
    if abs(np.log(ours / theirs)) < np.log(1.1):
        return measures
    warning = f"voxels differ: {ours:.2f} mm synthetic, {theirs:.2f} mm real; resample to one spacing to compare"
    return [
        m if m.name == "intensity_distance" else replace(m, note="; ".join(filter(None, (m.note, warning))))
        for m in measures
    ]


def curves(synthetic: Sequence[TextureFacts], real: Sequence[TextureFacts]) -> dict[str, Any]:
    """Return what ``curves.json`` holds; a structure that one side does not have is left out.

    Returns:
        ``histograms``: structure to ``edges`` and the share of voxels per bin, ``real`` and ``synthetic``.
        ``noise_power``: structure to ``frequency_per_mm`` and the geometric mean spectra, squared units times mm^3.
        ``unit``: of the intensities.
    """
    names, unit = _common([*synthetic, *real])
    histograms, spectra = {}, {}
    for name in names:
        ours, theirs = (_present(side, name, "levels") for side in (synthetic, real))
        if ours and theirs:
            histograms[name] = _histogram(ours, theirs)
        ours, theirs = (_present(side, name, "noise") for side in (synthetic, real))
        frequencies = _shared_frequencies([*ours, *theirs]) if ours and theirs else None
        if frequencies is not None:
            means = {"real": theirs, "synthetic": ours}
            spectra[name] = {"frequency_per_mm": frequencies.tolist()} | {
                side: (10 ** (_decibels(tissues, frequencies) / 10)).tolist() for side, tissues in means.items()
            }
    return {"histograms": histograms, "noise_power": spectra, "unit": unit}


def _histogram(synthetic: Sequence[Tissue], real: Sequence[Tissue]) -> dict[str, list[float]]:
    ours, theirs = (np.concatenate([tissue.levels for tissue in side]) for side in (synthetic, real))
    edges = np.histogram_bin_edges(np.concatenate([ours, theirs]), _BINS)
    shares = {
        side: (np.histogram(levels, edges)[0] / levels.size).tolist()
        for side, levels in (("real", theirs), ("synthetic", ours))
    }
    return {"edges": edges.tolist(), **shares}

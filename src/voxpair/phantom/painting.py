"""A patient painted on a voxel grid, a few slices at a time, so that memory does not grow with the scan.

In: a patient, voxel axes, and a rule from layers to levels (HU, amounts of material, signals). Out: :class:`Painting`.

Shapes: X Y Z voxel axes; K levels of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from voxpair.phantom.anatomy import HeartParameters
from voxpair.phantom.annotation import outlined_layers
from voxpair.phantom.heart import Calibration
from voxpair.phantom.layers import Layer, label_map, region_map
from voxpair.phantom.scene import build_scene

Levels = Callable[[Layer], Sequence[float | np.ndarray]]
"""The K levels of a layer, each one number or one per voxel."""

Step = tuple[float, float, float]
"""(first height in mm, shift of the heart to the right in mm, to the front in mm): what one heart beat contributes."""

_VOXELS_AT_ONCE = 2**20


@dataclass(frozen=True)
class Painting:
    """``levels`` (X, Y, K, Z) float32; ``metal`` (X, Y, Z) share of each voxel, or None; label maps (X, Y, Z) uint8.

    ``labels`` and ``regions`` are the truth in CARDIAC8 and THORAX7, ``outlined`` what a steady reader would outline.
    """

    levels: np.ndarray
    metal: np.ndarray | None
    labels: np.ndarray
    outlined: np.ndarray
    regions: np.ndarray


def paint_patient(
    axes: Sequence[np.ndarray],
    p: HeartParameters,
    calibration: Calibration,
    levels_of: Levels,
    empty: Sequence[float],
    steps: Sequence[Step] = (),
    pulmonary_shift_mm: float = 0.0,
) -> Painting:
    """Return the patient ``p`` at the voxel centres ``axes``.

    Args:
        axes: three increasing arrays, RAS+ mm.
        p: the patient.
        calibration: :func:`~voxpair.phantom.heart.inflation` of ``p``.
        levels_of: K levels of a layer.
        empty: the K levels of air around the patient.
        steps: the scan's heart beats from low to high; none: the heart lies in its place throughout.
        pulmonary_shift_mm: how much farther than the convention the reader follows the pulmonary artery.
    """
    shape = tuple(len(axis) for axis in axes)
    levels = np.empty((shape[0], shape[1], len(empty), shape[2]), np.float32)
    labels, outlined, regions = (np.empty(shape, np.uint8) for _ in range(3))
    metal = np.zeros(shape, np.float32) if p.metal != "no" else None
    spacing_mm = np.array([axis[1] - axis[0] for axis in axes])
    voxel_mm = float(np.prod(spacing_mm) ** (1 / 3))
    for part, shift in _slabs(axes, steps):
        heights = axes[2][part]
        pair = heights[0] + spacing_mm[2] * np.arange(2)  # a grid has a spacing, so one slice is built as two
        scene = build_scene([axes[0], axes[1], heights if len(heights) > 1 else pair], p, calibration, shift)
        kept = slice(len(heights))
        levels[..., part] = np.moveaxis(paint(scene.layers, voxel_mm, levels_of, empty), 0, 2)[..., kept]
        labels[..., part] = label_map(scene.layers)[..., kept]
        regions[..., part] = region_map(scene.layers)[..., kept]
        outlined[..., part] = label_map(outlined_layers(scene, pulmonary_shift_mm))[..., kept]
        if scene.metal is not None:
            metal[..., part] = np.clip(0.5 - scene.metal[..., kept] / voxel_mm, 0, 1)
    return Painting(levels, metal, labels, outlined, regions)


def paint(layers: Sequence[Layer], voxel_mm: float, levels_of: Levels, empty: Sequence[float]) -> np.ndarray:
    """Return the levels (K, X, Y, Z) float32 of ``layers`` painted in order over air.

    A voxel takes each layer in proportion to how much of it the surface encloses: 0.5 - distance / voxel size,
    exact for a plane along the grid.
    """
    painted = np.empty((len(empty), *layers[0].distance.shape), np.float32)
    painted[:] = np.reshape(empty, (-1, 1, 1, 1))
    for layer in layers:
        near = np.flatnonzero(layer.distance < 0.5 * voxel_mm)
        if not near.size:
            continue
        share = np.minimum(0.5 - layer.distance.ravel()[near] / voxel_mm, 1)
        for canvas, level in zip(painted.reshape(len(empty), -1), levels_of(layer)):
            wanted = level.ravel()[near] if isinstance(level, np.ndarray) else level
            canvas[near] += share * (wanted - canvas[near])
    return painted


def _slabs(axes: Sequence[np.ndarray], steps: Sequence[Step]) -> list[tuple[slice, tuple[float, float, float]]]:
    """Return index ranges along Z, each within one heart beat and small enough, and the heart's shift there."""
    heights = axes[2]
    starts = {0: (0.0, 0.0, 0.0)}
    for height, right, front in steps:
        starts[int(np.searchsorted(heights, height))] = (right, front, 0.0)
    thick = max(1, _VOXELS_AT_ONCE // (len(axes[0]) * len(axes[1])))
    slabs = []
    borders = [*sorted(starts), len(heights)]
    for first, last in pairwise(borders):
        slabs += [(slice(k, min(k + thick, last)), starts[first]) for k in range(first, last, thick)]
    return slabs

"""What a reader draws: the truth without its thin details, with outlines that waver and ends that are conventions.

In: a scene or a label map, and :class:`AnnotationSettings`. Out: the layers a reader outlines, and label maps as drawn.
Clean labels come from :func:`~voxpair.phantom.layers.label_map` and stay as they are.

Source: the papers put speckle between generated structures down to gaps between annotated ones; a phantom with and
without gaps can tell. Sizes of the jitter are choices of this design.

Shapes: X Y Z voxel axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from pydantic import Field

from voxpair.core.settings import Settings
from voxpair.phantom.contrast import smooth_texture
from voxpair.phantom.layers import Layer
from voxpair.phantom.scene import Scene

_WIDTH_MM = 10.0
"""Length over which an outline wavers."""


class AnnotationSettings(Settings):
    """How readers differ from the truth.

    Attributes:
        boundary_mm: standard deviation of the outlines; neighbours keep their common border.
        gaps: how many voxels of background keep touching structures apart; both lose alike.
        pulmonary_mm: standard deviation of where along its branches the pulmonary artery's label ends.
    """

    boundary_mm: float = Field(0.7, ge=0, le=3)
    gaps: int = Field(0, ge=0, le=2)
    pulmonary_mm: float = Field(6.5, ge=0, le=15)


def outlined_layers(scene: Scene, pulmonary_shift_mm: float) -> list[Layer]:
    """Return the layers that a reader outlines: no trabeculae, and PA as far as this reader follows it."""
    pulmonary = np.maximum(scene.pulmonary, scene.pulmonary_reach - pulmonary_shift_mm)
    kept = [layer for layer in scene.layers if layer.annotated]
    return [replace(layer, distance=pulmonary) if layer.label == "PA" else layer for layer in kept]


def pulmonary_shift(settings: AnnotationSettings, rng: np.random.Generator) -> float:
    """Draw by how many mm farther than the convention this reader follows the pulmonary artery."""
    return float(settings.pulmonary_mm * np.clip(rng.normal(), -2.5, 2.5))


def as_drawn(
    labels: np.ndarray, axes: Sequence[np.ndarray], settings: AnnotationSettings, rng: np.random.Generator
) -> np.ndarray:
    """Return ``labels`` (X, Y, Z) with wavering outlines, and gaps if there are to be any.

    Args:
        labels: of the outlined layers; 0 is background.
        axes: voxel centres in body millimetres.
        settings: how far outlines waver.
        rng: the reader.
    """
    drawn = _wavering(labels, axes, settings.boundary_mm, rng) if settings.boundary_mm > 0 else labels
    return _with_gaps(drawn, axes, settings.gaps, rng) if settings.gaps else drawn


def _wavering(
    labels: np.ndarray, axes: Sequence[np.ndarray], boundary_mm: float, rng: np.random.Generator
) -> np.ndarray:
    """Return ``labels`` displaced by a smooth random field whose components have SD ``boundary_mm``."""
    index = []
    for side, axis in enumerate(axes):
        steps = np.arange(len(axis), dtype=np.float32).reshape([-1 if i == side else 1 for i in range(3)])
        shift = boundary_mm / (axis[1] - axis[0]) * smooth_texture(axes, _WIDTH_MM, rng)
        index.append(np.clip(np.rint(steps + shift), 0, len(axis) - 1).astype(np.int32))
    return labels[tuple(index)]


def _with_gaps(labels: np.ndarray, axes: Sequence[np.ndarray], gaps: int, rng: np.random.Generator) -> np.ndarray:
    """Return ``labels`` with ``gaps`` voxels, one or two, of background between structures that shared a face.

    Of two voxels that share a face, both go for a gap of two. For a gap of one, the lower value goes in some regions
    and the higher in the others: patches of a smooth random field, half of the volume each.
    """
    separate = labels.copy()
    low_goes = smooth_texture(axes, _WIDTH_MM, rng) > 0 if gaps == 1 else np.ones(labels.shape, bool)
    high_goes = ~low_goes if gaps == 1 else low_goes
    for axis in range(labels.ndim):
        source, target, low, high = (np.moveaxis(a, axis, 0) for a in (labels, separate, low_goes, high_goes))
        before, after = source[:-1], source[1:]
        touching, rising = (before > 0) & (after > 0) & (before != after), before < after
        low, high = low[:-1], high[:-1]  # one decision for each pair
        target[:-1][touching & np.where(rising, low, high)] = 0
        target[1:][touching & np.where(rising, high, low)] = 0
    return separate

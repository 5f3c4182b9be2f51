"""Lungs: tissue that is denser where the patient lies, and a tree of vessels in each.

In: voxels in body coordinates, the patient, the inside of the chest above the diaphragm. Out: layers.
"""

from __future__ import annotations

import numpy as np

from voxpair.phantom.anatomy import HeartParameters
from voxpair.phantom.bones import CHEST_MM, MIDLINE_MM
from voxpair.phantom.contrast import texture_at
from voxpair.phantom.layers import Layer
from voxpair.phantom.shapes import Tube, VoxelGrid

_HILA = ((64.0, -28.0, 34.0), (-36.0, -46.0, 38.0))
_TREES, _DIVISIONS = 8, 4
_TREES_IN_FRONT = 3
"""Of each lung: they run beside the heart to where the others, from hila far behind, do not reach."""
_MESH_MM, _MESH_AT_MM = 7.0, 24.0
"""Width of the meshes of the fine vessels, and at which distance from the hilum they have it."""
_DENSER_HU_PER_MM = -0.35


def lung_layers(grid: VoxelGrid, p: HeartParameters, space: np.ndarray, texture: np.ndarray) -> list[Layer]:
    """Return both lungs and their vessels.

    Args:
        grid: voxels in body coordinates.
        p: the patient.
        space: signed distance (X, Y, Z) mm of what lungs may fill.
        texture: smooth random field (X, Y, Z), SD 1.
    """
    level = p.levels_hu["lung"] + _DENSER_HU_PER_MM * (grid.points[1] - CHEST_MM) + 12 * texture
    right = MIDLINE_MM - grid.points[0]
    blood = 0.5 * (p.levels_hu["PA"] + p.levels_hu["LA"])
    return [
        Layer(np.maximum(space, right), level, tissue="lung", region="right_lung"),
        Layer(np.maximum(space, -right), level, tissue="lung", region="left_lung"),
        Layer(np.maximum(_vessels(grid, p, space), space + 3), blood, tissue="blood"),
    ]


def _vessels(grid: VoxelGrid, p: HeartParameters, space: np.ndarray) -> np.ndarray:
    """Return the trees, each from its hilum, evenly spread over the directions away from the heart."""
    rng = np.random.default_rng([p.detail_seed, 4])
    twigs: list[Tube] = []
    for hilum, outward in zip(_HILA, (1.0, -1.0)):
        for _ in range(_TREES):
            way = np.array([outward * rng.uniform(0.1, 1), rng.uniform(-0.9, 1.2), rng.uniform(-1.1, 0.9)])
            _grow(twigs, np.array(hilum), way, 3.4, _DIVISIONS, rng)
        for k in range(_TREES_IN_FRONT):
            way = np.array([outward * rng.uniform(0.35, 0.8), 0.9, 0.7 - 0.6 * k + rng.normal(0, 0.15)])
            start = np.array(hilum) + 30 * way / np.linalg.norm(way)
            twigs.append(Tube([hilum, start], [3.6, 3.0]))
            _grow(twigs, start, way, 2.9, _DIVISIONS, rng)
    return np.minimum(grid.draw(*twigs, margin_mm=3), _fine_vessels(grid, space, rng))


def _fine_vessels(grid: VoxelGrid, inside: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a net of fine vessels that run away from the hila: curves on which two random fields both vanish.

    Space is compressed along the way from the hilum, which draws the meshes of the net out threefold.
    """
    field = np.full(grid.shape, 9.0, np.float32)
    chosen = np.flatnonzero(inside < 0)
    points = grid.points.reshape(3, -1)[:, chosen]
    hila = np.where(points[0] > MIDLINE_MM, *np.array(_HILA, np.float32)[:, :, None])
    offset = points - hila
    away = np.linalg.norm(offset, axis=0) + 8
    squeezed = offset * (_MESH_AT_MM / away) ** (2 / 3) + 60 * np.sign(hila[:1] - MIDLINE_MM)
    first, second = texture_at(squeezed, _MESH_MM, rng), texture_at(squeezed, _MESH_MM, rng)
    mesh = 0.6 * _MESH_MM * (away / _MESH_AT_MM) ** (2 / 3)
    field.ravel()[chosen] = mesh * np.hypot(first, second) - np.clip(2.2 - away / 80, 1.1, 1.8)
    return field


def _grow(
    twigs: list[Tube], start: np.ndarray, way: np.ndarray, radius_mm: float, divisions: int, rng: np.random.Generator
) -> None:
    """Add one vessel and, ``divisions`` times over, the two into which it divides (Murray: r^3 is kept)."""
    way = way / np.linalg.norm(way)
    end = start + way * rng.uniform(13, 25)
    twigs.append(Tube([start, end], [radius_mm, 0.8 * radius_mm]))
    if divisions > 1:
        for _ in range(2):
            _grow(twigs, end, way + rng.normal(0, 0.5, 3), 0.76 * radius_mm, divisions - 1, rng)

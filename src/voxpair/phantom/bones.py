"""Bones of the chest: vertebrae with discs and canal, ribs with cartilage, sternum; marrow inside a thin cortex.

In: voxels in body coordinates, the patient, the inner surface of the chest. Out: layers.
"""

from __future__ import annotations

import numpy as np

from voxpair.phantom.anatomy import HeartParameters
from voxpair.phantom.contrast import smooth_texture
from voxpair.phantom.layers import Layer
from voxpair.phantom.shapes import VoxelGrid, smooth_union

MIDLINE_MM = 22.0
"""The chest's middle lies here in the heart's reference, since the heart's base is left of it."""
SPINE_MM = -73.0
"""Front-to-back position of the vertebral bodies' centres at the height of the LV's base."""
CHEST_MM = -14.0
"""Front-to-back position of the chest's centre."""
_VERTEBRA_STEP_MM = 24.5
_CORTEX_MM = 1.2
_STERNUM_MM = 6.2
"""Half the thickness of the sternum."""


def spine_mm(height_mm: float | np.ndarray) -> float | np.ndarray:
    """Return the front-to-back position of the spine, which leans back towards the neck."""
    return SPINE_MM - 0.1 * height_mm


def sternum_mm(p: HeartParameters) -> float:
    """Return the front-to-back position of the middle of the sternum."""
    return CHEST_MM + p.thorax_half_depth_mm + 8


def bone_layers(grid: VoxelGrid, p: HeartParameters, cavity: np.ndarray) -> list[Layer]:
    """Return the skeleton.

    Args:
        grid: voxels in body coordinates.
        p: the patient.
        cavity: signed distance (X, Y, Z) mm of the inside of the chest.
    """
    spine, disc, canal = _spine(grid, p)
    ribs, cartilage = _ribs(grid, cavity)
    bone = np.minimum.reduce([spine, ribs, _sternum(grid, cavity)])
    mottled = smooth_texture(grid.axes, 6.0, np.random.default_rng([p.detail_seed, 9]))
    return [
        Layer(cartilage, 95.0, tissue="cartilage"),
        Layer(bone, p.levels_hu["cortex"], tissue="bone", region="body"),
        Layer(bone + _CORTEX_MM, p.levels_hu["marrow"] + 35 * mottled, tissue="marrow"),
        Layer(disc, 85.0, tissue="cartilage"),
        Layer(canal + 1, 10.0),
        Layer(canal + 4, 38.0, region="spinal_cord"),
    ]


def _spine(grid: VoxelGrid, p: HeartParameters) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return vertebrae (bodies, arches, processes), discs, and the canal."""
    z = grid.points[2]
    x, y = grid.points[0] - MIDLINE_MM, grid.points[1] - spine_mm(z)
    radius = p.vertebra_radius_mm
    phase = (z + 9) / _VERTEBRA_STEP_MM
    level = (phase - np.round(phase)) * _VERTEBRA_STEP_MM  # 0 in the middle of a disc
    waist = 1.4 * np.cos(2 * np.pi * phase)
    canal = np.hypot(x / 1.15, y + radius + 5) - 8.5
    body = np.hypot(x / 1.12, y) - radius - waist
    body = np.maximum(body, -np.hypot(x / 1.6, y + radius + 4) + 8)  # its back is hollowed by the canal
    arch = np.maximum(canal - 5, y + 2)
    spinous = np.maximum(np.abs(x) - 3, np.abs(y + radius + 26) - 13)
    spinous = np.maximum(spinous, np.abs(level - 12 * np.sign(level) + 0.5 * (y + radius + 20)) - 8)
    side = np.hypot(np.abs(level) - 9, y + radius + 4 + 0.25 * np.abs(x)) - 5.5
    side = np.maximum(side, np.abs(x) - 33)
    disc = np.abs(level) - 2.3
    bodies = np.maximum(body, -disc)
    processes = np.minimum.reduce([np.maximum(arch, 5 - np.abs(level)), spinous, side])
    return np.maximum(smooth_union(bodies, processes, 3), -canal), np.maximum.reduce([body, disc, -canal]), canal


def _ribs(grid: VoxelGrid, cavity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ribs, which slope down towards the front, and the cartilage that leads from them to the sternum."""
    x, y, z = grid.points[0] - MIDLINE_MM, grid.points[1], grid.points[2]
    around = np.arctan2(y - CHEST_MM, np.abs(x))
    height = z + 26 * np.sin(around) + 0.10 * np.abs(x)
    height = height - _VERTEBRA_STEP_MM * np.round(height / _VERTEBRA_STEP_MM)
    rib = np.sqrt((1.5 * (cavity - 6)) ** 2 + (0.72 * height) ** 2) - 5.0
    front = 50 - 0.25 * np.abs(x)
    ribs = np.maximum(rib, y - front)
    cartilage = np.maximum.reduce([rib, front - y, 16 - np.abs(x)])
    return ribs, cartilage


def _sternum(grid: VoxelGrid, cavity: np.ndarray) -> np.ndarray:
    """Return manubrium and body, rounded, with the joint between them."""
    x, y, z = grid.points[0] - MIDLINE_MM, grid.points[1], grid.points[2]
    wide = 17 + 2.5 * np.cos(z / 18) - 3 * np.clip(-z / 40, 0, 1) + 7 * np.clip((z - 70) / 20, 0, 1)
    across, along = x / wide, (cavity - 8.5 - 1.5 * (x / 15) ** 2) / _STERNUM_MM  # its sides bend back
    reach = np.sqrt(across * across + along * along) + 1e-3
    plate = (reach - 1) * reach / np.hypot(across / wide, along / _STERNUM_MM)
    joint = 1.2 - np.abs(z - 72)
    return np.maximum.reduce([plate, joint, -48 - z, -y])

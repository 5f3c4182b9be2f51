"""What lies around the heart: chest wall, lungs, fat of the mediastinum, airways, gullet, bones, diaphragm, abdomen.

In: a :class:`~voxpair.phantom.shapes.VoxelGrid` in body coordinates, the patient's parameters and the heart's outer
surfaces. Out: layers in the order in which they are painted over one another.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from voxpair.phantom.anatomy import HeartParameters
from voxpair.phantom.bones import CHEST_MM, MIDLINE_MM, SPINE_MM, bone_layers, spine_mm, sternum_mm
from voxpair.phantom.contrast import smooth_texture
from voxpair.phantom.frame import LA_CENTRE
from voxpair.phantom.layers import Layer
from voxpair.phantom.lungs import lung_layers
from voxpair.phantom.shapes import FAR_MM, Ellipsoid, Tube, VoxelGrid, smooth_cut, smooth_union

_WALL_MM = 18.0
_THIN_IN_FRONT = 0.25
"""By what share the wall is thinner at the sternum."""
_PRESSED_MM = 5.0
"""How much the weight presses the fat of the back together."""
_GULLET_BEHIND_MM = 7.0
"""From the inside of the left atrium to the middle of the gullet."""
_GROOVE_MM = 12.0
"""Over which width fat fills the grooves between chambers."""


def thorax_layers(
    grid: VoxelGrid, p: HeartParameters, sac: np.ndarray, heart_outside: np.ndarray, atrium: np.ndarray
) -> list[Layer]:
    """Return everything but the heart itself, from the table and the skin inwards.

    Args:
        grid: voxels in body coordinates.
        p: the patient.
        sac: signed distance (X, Y, Z) mm of the pericardium.
        heart_outside: the same of pericardium and great vessels with the fat around them.
        atrium: the same of the left atrium, on which the gullet lies.
    """
    levels = p.levels_hu
    texture = smooth_texture(grid.axes, 14.0, np.random.default_rng([p.detail_seed, 3]))
    cavity = _cavity(grid, p)
    cavity -= np.clip(cavity + 2 - sac, 0, 10) * np.clip(1 - sac / 14, 0, 1)  # the chest gives way to the heart
    ground = _diaphragm(grid, p)
    layers = _wall(grid, p, cavity, texture)
    layers += lung_layers(grid, p, np.maximum(cavity, -ground), texture)
    layers += _abdomen(grid, p, ground, cavity, texture)
    gullet = _gullet(grid, atrium)
    mediastinum = np.maximum(_mediastinum(grid, p, heart_outside, gullet), cavity - 1)
    layers += [
        Layer(mediastinum, levels["fat"] + 8 * texture, tissue="fat", region="body"),
        Layer(np.maximum(sac, cavity - 1), levels["fat"] + 6 * texture, tissue="fat", region="heart"),
    ]
    return layers + _airways(grid, gullet, levels["muscle"]) + bone_layers(grid, p, cavity)


def _cavity(grid: VoxelGrid, p: HeartParameters) -> np.ndarray:
    """Return the inside of the chest: an oval between ellipse and rectangle, a little hollow in front of the spine."""
    across = (grid.points[0] - MIDLINE_MM) / p.thorax_half_width_mm
    along = (grid.points[1] - CHEST_MM) / p.thorax_half_depth_mm
    across, along = across * across, along * along
    reach = np.sqrt(np.sqrt(across * across + along * along + 1.6 * across * along)) + 1e-3
    oval = (reach - 1) * 0.5 * (p.thorax_half_width_mm + p.thorax_half_depth_mm)
    spine = 1.2 * np.hypot(grid.points[0] - MIDLINE_MM, 0.6 * (grid.points[1] - SPINE_MM + 36)) - 22
    return np.maximum(oval, -spine)


def _wall(grid: VoxelGrid, p: HeartParameters, cavity: np.ndarray, texture: np.ndarray) -> list[Layer]:
    """Return table, skin with fat and breasts, and two sheets of muscle with fat between them."""
    levels = p.levels_hu
    x, y = grid.points[0] - MIDLINE_MM, grid.points[1]
    # two columns beside the spinous processes, broad and flat, in their bed on ribs and vertebrae
    behind = y - spine_mm(grid.points[2]) + 40
    back = 15 * (np.sqrt(((np.abs(x) - 27) / 27) ** 2 + (behind / 17) ** 2 + 1e-6) - 1)
    wall_mm = _WALL_MM * (1 - _THIN_IN_FRONT * np.clip((y - 20) / 40, 0, 1) * np.clip(1 - np.abs(x) / 70, 0, 1))
    muscles = smooth_union(cavity - wall_mm, back, 14)
    lowest = min(CHEST_MM - p.thorax_half_depth_mm - _WALL_MM, SPINE_MM - 52) - p.subcutaneous_fat_mm + _PRESSED_MM
    skin = smooth_cut(muscles - p.subcutaneous_fat_mm, lowest - y, 6)  # the back lies flat on the table
    glands = np.full(grid.shape, 60.0, np.float32)
    if p.breast_mm > 0:
        front = CHEST_MM + p.thorax_half_depth_mm + _WALL_MM
        breasts = grid.draw(
            *(Ellipsoid((MIDLINE_MM + side, front - 4, 0), (52, 12 + p.breast_mm, 55)) for side in (-68, 68)),
            blend_mm=8,
        )
        skin = smooth_union(skin, breasts, 12)
        glands = np.maximum(breasts + 12, 4 - 9 * texture)
    table = np.abs(y - lowest + 11 - 0.0006 * x * x) - 10
    streak = 1.4 - np.abs(cavity - 10.5 + 2.5 * texture)  # the plane of fat between chest muscles and ribs
    return [
        Layer(table, -880.0, tissue="air"),
        Layer(np.maximum(table, -table - 2.5), -250.0, tissue="fat"),
        Layer(skin, levels["muscle"] - 30, tissue="soft", region="body"),
        Layer(skin + 1.8, levels["fat"] + 8 * texture, tissue="fat"),
        Layer(glands, levels["muscle"] - 15),
        Layer(np.maximum(muscles, skin + 4), levels["muscle"] + 6 * texture),
        Layer(np.maximum(-streak, muscles + 3), levels["fat"] + 20.0, tissue="fat"),
    ]


def _diaphragm(grid: VoxelGrid, p: HeartParameters) -> np.ndarray:
    """Return the ground under the lungs: a high dome on the right, a lower one on the left, the heart between."""
    x, y, z = grid.points
    right = 34 * np.exp(-(((x - 92) / 48) ** 2) - ((y + 4) / 62) ** 2)
    left = 22 * np.exp(-(((x + 58) / 42) ** 2) - ((y + 14) / 58) ** 2)
    behind = 26 * np.clip(-(y + 30) / 60, 0, 1.5)  # it falls off towards the back
    return 0.85 * (z - (p.diaphragm_height_mm - 57 + right + left - behind))


def _abdomen(
    grid: VoxelGrid, p: HeartParameters, ground: np.ndarray, cavity: np.ndarray, texture: np.ndarray
) -> list[Layer]:
    """Return fat below the diaphragm, spleen, stomach with gas, and the liver, whose left lobe lies under the heart."""
    levels = p.levels_hu
    x, y, z = grid.points
    edge = -(x + 14 + 0.5 * (z + 70) - 14 * np.sin((y + 20) / 30))
    liver = np.maximum(ground + 3, edge)
    stomach = grid.draw(Ellipsoid((-44, -8, -98), (44, 46, 46)))
    gas = grid.draw(Ellipsoid((-46, 14, -84), (24, 15, 17)), Ellipsoid((-58, 4, -88), (15, 12, 13)), blend_mm=8)
    spleen = grid.draw(Ellipsoid((-76, -64, -88), (26, 38, 42)))
    inner = np.maximum(ground + 3, cavity + 2)
    return [
        Layer(np.maximum(ground, cavity), levels["muscle"], region="body"),
        Layer(np.maximum(ground + 2.5, cavity), levels["fat"], tissue="fat"),
        Layer(np.maximum(spleen, inner), levels["liver"] + 25 + 6 * texture),
        Layer(np.maximum(stomach, inner), levels["muscle"] - 10 + 14 * texture),
        Layer(np.maximum(gas, ground + 7), -950.0, tissue="air"),
        Layer(np.maximum(liver, inner), levels["liver"] + 5 * texture),
    ]


def _mediastinum(grid: VoxelGrid, p: HeartParameters, heart_outside: np.ndarray, gullet: np.ndarray) -> np.ndarray:
    """Return the fat between the lungs: around heart, great vessels, gullet and spine, and behind the sternum."""
    x, y, top, front = MIDLINE_MM, SPINE_MM, 170, sternum_mm(p)
    columns = [
        Tube([(x - 14, y + 24, -top), (x - 12, y + 21, 30), (x - 10, y + 12, top)], [13, 15, 16]),
        Tube([(x, spine_mm(-top), -top), (x, spine_mm(top), top)], [22, 22]),
        Tube([(x - 8, -30, 62), (x - 6, -30, top)], [30, 33]),
        Tube([(x - 6, 8, 58), (x - 6, 5, top)], [30, 32]),
        Tube([(x - 6, front - 22, -60), (x - 4, front - 32, top)], [12, 13]),
        Tube([(x - 4, front - 6, -80), (x - 4, front - 4, top)], [12, 12]),
        Tube([(50, -26, 30), (56, -26, 48)], [17, 15]),
        Tube([(50, 2, 36), (46, 4, top)], [15, 16]),
        Tube([(0, -60, -top), (-10, -64, 0), (-9, -64, 66)], [p.descending_radius_mm + 2.5] * 3),
        Tube([(-22, -34, 34), (-30, -36, 54)], [17, 14]),
    ]
    around = smooth_union(grid.draw(*columns, blend_mm=10), heart_outside, 6)
    return smooth_union(around, gullet - 3, 12)


def _gullet(grid: VoxelGrid, atrium: np.ndarray) -> np.ndarray:
    """Return the gullet: a column in front of the spine that the left atrium, on which it lies, pushes back.

    It is flat where it touches the atrium: its middle lies wherever is farther back, on its own way or at
    ``_GULLET_BEHIND_MM`` from the atrium.
    """
    x, y, z = grid.points
    way = np.interp(z, (-110, -20, 40, 150), (-42, -44, -50, -56)).astype(np.float32)
    behind = np.minimum(way - y, np.where(y < LA_CENTRE[1], atrium - _GULLET_BEHIND_MM, FAR_MM))
    aside = x - np.interp(z, (-110, 0, 40, 150), (4, 11, 13, 14)).astype(np.float32)
    return np.hypot(0.7 * aside, behind) - 5.3


def _airways(grid: VoxelGrid, wall: np.ndarray, muscle_hu: float) -> list[Layer]:
    """Return trachea, carina and main bronchi with their walls, and the gullet, whose wall's outside is given."""
    x = MIDLINE_MM - 6
    trachea = Tube([(x, -38, 150), (x, -38, 68)], [9, 8.5])
    right = Tube([(x, -38, 70), (x + 24, -40, 47), (x + 52, -42, 30)], [8, 6.5, 4.5])
    left = Tube([(x, -38, 70), (x - 34, -42, 44), (x - 56, -46, 32)], [7.5, 6, 4])
    bubble = Tube([(x - 2, -55, 150), (x - 4, -51, 60)], [2.2, 0.8])
    air = grid.draw(trachea, right, left)
    return [
        Layer(air - 1.8, muscle_hu),
        Layer(air, -1000.0, tissue="air", region="trachea"),
        Layer(wall, muscle_hu, region="oesophagus"),
        Layer(grid.draw(bubble), -700.0, tissue="air"),
    ]


def pericardium(
    structures: Mapping[str, np.ndarray], fat_mm: float, below: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the outer surface of the heart's fat, which fills the grooves, and that of the great vessels with it.

    Args:
        structures: fields by label.
        fat_mm: thickness of the fat.
        below: field that is negative where the great vessels run within the pericardium.
    """
    outer = structures["MYO"]
    for name in ("LV", "LA", "RA", "RV", "LAA"):
        outer = smooth_union(outer, structures[name], _GROOVE_MM)
    great = smooth_union(structures["AO"], structures["PA"], _GROOVE_MM)
    sac = smooth_union(outer, np.maximum(great, below), _GROOVE_MM) - fat_mm
    return sac, smooth_union(sac, great - fat_mm, _GROOVE_MM)

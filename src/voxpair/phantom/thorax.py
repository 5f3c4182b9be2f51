"""What lies around the heart: chest wall, lungs with vessels, airways, gullet, bones, diaphragm and liver.

In: a :class:`~voxpair.phantom.shapes.VoxelGrid` in body coordinates, the patient's parameters and the heart's outer
surface. Out: layers in the order in which they are painted over one another.

The chest is placed by the heart's reference: the midline lies at x = 22 mm, since the heart's base is left of it.
"""

from __future__ import annotations

import numpy as np

from voxpair.phantom.anatomy import HeartParameters
from voxpair.phantom.contrast import smooth_texture
from voxpair.phantom.layers import Layer
from voxpair.phantom.shapes import Ellipsoid, Tube, VoxelGrid, smooth_union

MIDLINE_MM = 22.0
SPINE_MM = -84.0
"""Front-to-back position of the vertebral bodies' centres."""
STERNUM_MM = 82.0
_RIB_STEP_MM = 25.0


def thorax_layers(grid: VoxelGrid, p: HeartParameters, heart_outside: np.ndarray) -> list[Layer]:
    """Return everything but the heart itself, from the skin inwards.

    Args:
        grid: voxels in body coordinates.
        p: the patient.
        heart_outside: signed distance (X, Y, Z) mm of the pericardium.
    """
    levels = p.levels_hu
    across = (grid.points[0] - MIDLINE_MM) / p.thorax_half_width_mm
    along = (grid.points[1] + 2) / p.thorax_half_depth_mm
    reach = np.sqrt(np.sqrt(across**4 + along**4 + 1.6 * across**2 * along**2)) + 1e-3
    cavity = (reach - 1) * 0.5 * (p.thorax_half_width_mm + p.thorax_half_depth_mm)
    wall = cavity - 18
    skin = np.minimum(wall - p.subcutaneous_fat_mm, _back(grid))
    ground = _diaphragm(grid, p)
    mediastinum = _mediastinum(grid, heart_outside)
    stomach = grid.draw(Ellipsoid((-48, -14, -96), (44, 50, 46)))
    gas = grid.draw(Ellipsoid((-52, 12, -82), (17, 13, 14)))
    texture = smooth_texture(grid.axes, 14.0, np.random.default_rng([p.detail_seed, 3]))
    dependent = -0.35 * grid.points[1]  # lungs are denser at the back of someone who lies on it
    lung_hu = levels["lung"] + dependent + 12 * texture
    layers = [
        Layer(skin, levels["fat"] + 8 * texture, tissue="fat", region="body"),
        Layer(np.minimum(wall + 2, _back(grid) + 9), levels["muscle"] + 6 * texture),
        Layer(np.maximum(cavity, -ground), lung_hu, tissue="lung"),
        Layer(np.maximum(_lung_vessels(grid, p), cavity + 4), 0.6 * levels["PA"] + 20, tissue="blood"),
        Layer(np.maximum(ground, cavity), levels["fat"], tissue="fat", region="body"),
        Layer(np.maximum.reduce([stomach, ground + 4, cavity + 4]), levels["muscle"] - 10 + 8 * texture),
        Layer(np.maximum(gas, ground + 7), -950.0, tissue="air"),
        Layer(np.maximum(_liver(grid, ground), cavity + 2), levels["liver"] + 5 * texture),
        Layer(np.maximum(mediastinum, cavity - 1), levels["fat"] + 8 * texture, tissue="fat", region="body"),
    ]
    return layers + _airways(grid, levels["muscle"]) + _bones(grid, p, cavity)


def _back(grid: VoxelGrid) -> np.ndarray:
    """Return the long muscles beside the spine."""
    sides = [
        Tube([(x, SPINE_MM - 34, -140), (x, SPINE_MM - 34, 160)], [27, 27]) for x in (MIDLINE_MM - 28, MIDLINE_MM + 28)
    ]
    return grid.draw(*sides, blend_mm=10)


def _diaphragm(grid: VoxelGrid, p: HeartParameters) -> np.ndarray:
    """Return the ground under the lungs: a high dome on the right, a lower one on the left, the heart between."""
    x, y, z = grid.points
    right = 34 * np.exp(-(((x - 92) / 48) ** 2) - ((y + 4) / 62) ** 2)
    left = 20 * np.exp(-(((x + 62) / 40) ** 2) - ((y + 14) / 55) ** 2)
    behind = 26 * np.clip(-(y + 30) / 60, 0, 1.5)  # it falls off towards the back
    return 0.85 * (z - (p.diaphragm_height_mm - 57 + right + left - behind))


def _liver(grid: VoxelGrid, ground: np.ndarray) -> np.ndarray:
    """Return the liver under the right dome, its left lobe reaching under the heart."""
    x, y, z = grid.points
    edge = -(x + 14 + 0.5 * (z + 70) - 14 * np.sin((y + 20) / 30))
    return np.maximum(ground + 3, edge)


def _mediastinum(grid: VoxelGrid, heart_outside: np.ndarray) -> np.ndarray:
    """Return the fat between the lungs: around heart, great vessels, gullet and spine, and behind the sternum."""
    x, y, z = MIDLINE_MM, SPINE_MM, 150
    columns = [
        Tube([(x - 10, y + 24, -z), (x - 10, y + 24, z)], [24, 24]),
        Tube([(x, y, -z), (x, y, z)], [24, 24]),
        Tube([(x - 8, -30, 62), (x - 6, -30, z)], [30, 33]),
        Tube([(x - 6, 8, 58), (x - 6, 5, z)], [30, 32]),
        Tube([(x - 6, 60, -60), (x - 4, 50, z)], [11, 13]),
        Tube([(x - 4, 78, -80), (x - 4, 78, z)], [12, 12]),
        Tube([(50, -26, 30), (56, -26, 48)], [17, 15]),
        Tube([(-22, -34, 34), (-30, -36, 54)], [17, 14]),
    ]
    return smooth_union(grid.draw(*columns, blend_mm=10), heart_outside, 8)


def _airways(grid: VoxelGrid, muscle_hu: float) -> list[Layer]:
    """Return trachea, carina and main bronchi with their walls, and the gullet behind the left atrium."""
    x = MIDLINE_MM - 6
    trachea = Tube([(x, -38, 150), (x, -38, 68)], [9, 8.5])
    right = Tube([(x, -38, 70), (x + 24, -40, 47), (x + 52, -42, 30)], [8, 6.5, 4.5])
    left = Tube([(x, -38, 70), (x - 34, -42, 44), (x - 56, -46, 32)], [7.5, 6, 4])
    gullet = Tube([(x - 2, -54, 150), (x - 4, -52, 40), (x - 6, -51, 0), (x - 12, -48, -110)], [7, 7, 7, 8])
    air = grid.draw(trachea, right, left)
    return [
        Layer(air - 1.8, muscle_hu),
        Layer(air, -1000.0, tissue="air", region="trachea"),
        Layer(grid.draw(gullet), muscle_hu, region="oesophagus"),
    ]


def _bones(grid: VoxelGrid, p: HeartParameters, cavity: np.ndarray) -> list[Layer]:
    """Return vertebrae with discs and canal, ribs and sternum; marrow inside a thin cortex."""
    x, y, z = grid.points
    radius = p.vertebra_radius_mm
    phase = (z + 9) / _RIB_STEP_MM
    disc = np.abs(phase - np.round(phase)) * _RIB_STEP_MM - 2.5
    waist = 1.5 * np.cos(2 * np.pi * phase)
    oval = np.sqrt(((x - MIDLINE_MM) / 1.1) ** 2 + (y - SPINE_MM) ** 2) - radius - waist
    canal = np.sqrt((x - MIDLINE_MM) ** 2 + (y - SPINE_MM + radius + 8) ** 2) - 8.5
    arch = np.maximum(canal - 5, y - SPINE_MM)
    process = np.maximum(np.abs(x - MIDLINE_MM) - 4, np.abs(y - SPINE_MM + radius + 28) - 14)
    side = np.sqrt((np.abs(phase - np.round(phase)) * _RIB_STEP_MM - 11) ** 2 + (y - SPINE_MM + radius + 4) ** 2) - 6
    side = np.maximum(side, np.abs(x - MIDLINE_MM) - 32)
    spine = np.maximum(np.minimum.reduce([oval, arch, process, side]), -canal)
    around = np.arctan2(y + 2, np.abs(x - MIDLINE_MM))
    height = z + 18 * np.sin(around) + 0.12 * np.abs(x - MIDLINE_MM)  # ribs slope down towards the front
    height = height - _RIB_STEP_MM * np.round(height / _RIB_STEP_MM)
    rib = np.sqrt((1.35 * (cavity - 7)) ** 2 + (0.85 * height) ** 2) - 5.5
    ribs = np.maximum(rib, y - 62)  # in front there is cartilage
    cartilage = np.maximum(np.maximum(rib, 62 - y), 18 - np.abs(x - MIDLINE_MM))
    sternum = np.maximum(np.abs(x - MIDLINE_MM) - 17, np.abs(y - STERNUM_MM - 0.06 * z) - 5.5)
    sternum = np.maximum(sternum, -62 - z)
    bone = np.minimum.reduce([spine, ribs, sternum])
    marrow, cortex = p.levels_hu["marrow"], p.levels_hu["cortex"]
    return [
        Layer(cartilage, 95.0, tissue="cartilage"),
        Layer(bone, cortex, tissue="bone"),
        Layer(bone + 1.4, marrow, tissue="marrow"),
        Layer(np.maximum(np.maximum(oval, disc), -canal), 85.0, tissue="cartilage"),
        Layer(canal + 1, 35.0, region="spinal_cord"),
    ]


def _lung_vessels(grid: VoxelGrid, p: HeartParameters) -> np.ndarray:
    """Return a random tree in each lung that starts at its hilum."""
    rng = np.random.default_rng([p.detail_seed, 4])
    twigs: list[Tube] = []
    for hilum, outward in (((64, -28, 36), 1.0), ((-36, -46, 40), -1.0)):
        for _ in range(12):
            way = np.array([outward * rng.uniform(0.2, 1), rng.uniform(-0.8, 1.0), rng.uniform(-1.0, 0.9)])
            _grow_twig(twigs, np.array(hilum, float), way, 3.6, 4, rng)
    return grid.draw(*twigs, margin_mm=4)


def _grow_twig(
    twigs: list[Tube], start: np.ndarray, way: np.ndarray, radius_mm: float, depth: int, rng: np.random.Generator
) -> None:
    """Add one vessel and, ``depth`` times over, the two into which it divides (radii after Murray: r^3 is kept)."""
    way = way / np.linalg.norm(way)
    end = start + way * rng.uniform(15, 27)
    twigs.append(Tube([start, end], [radius_mm, 0.8 * radius_mm]))
    if depth > 1:
        for _ in range(2):
            _grow_twig(twigs, end, way + rng.normal(0, 0.45, 3), 0.75 * radius_mm, depth - 1, rng)


def pericardium(structures: dict[str, np.ndarray], fat_mm: float) -> np.ndarray:
    """Return the outer surface of the heart's fat, which fills the grooves between the chambers."""
    outer = structures["MYO"]
    for name in ("LV", "LA", "RA", "RV", "AO", "PA", "LAA"):
        outer = smooth_union(outer, structures[name], 14)
    return outer - fat_mm

"""Vessels of the reference heart: aorta, pulmonary artery, coronary arteries; lines through landmarks, and grooves.

In: a patient, the pose of the heart, fields of the chambers. Out: shapes (reference mm) and fields of distance (mm).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from voxpair.phantom.anatomy import HeartParameters
from voxpair.phantom.frame import (
    AORTIC_AXIS,
    AORTIC_VALVE,
    APEX,
    BIFURCATION,
    PULMONARY_AXIS,
    PULMONARY_VALVE,
)
from voxpair.phantom.shapes import Ellipsoid, Pose, Tube, VoxelGrid

_SINUS_TURNS = (0.5, 2.6, 4.7)
"""Directions (radians about the valve's axis) of the three aortic sinuses."""


def fixed(pose: Pose, *places_mm: tuple[float, float, float]) -> list[np.ndarray]:
    """Return reference coordinates of places in the body, for what does not turn with the heart."""
    return [pose.rotation.T @ np.array(place) / pose.scale for place in places_mm]


def aorta_shapes(p: HeartParameters, pose: Pose) -> list[Tube | Ellipsoid]:
    """Return root with its three sinuses, ascending part, arch, and the limb that runs down left of the spine."""
    top = p.arch_height_mm
    radii = p.aortic_root_radius_mm, p.ascending_radius_mm, p.descending_radius_mm
    root, up, down = (radius / pose.scale for radius in radii)
    path = [AORTIC_VALVE - 3 * AORTIC_AXIS, (20, 16, 23), (25, 17, 34), (28, 17, 52), (26, 9, 76 + top)]
    path += fixed(pose, (16, -8, 94 + top), (0, -34, 97 + top), (-8, -56, 82 + top), (-10, -66, 55))
    path += fixed(pose, (-10, -64, 0), (0, -60, -110), (10, -58, -160))
    radii = [0.72 * root, 0.82 * root, 0.88 * up, up, up, 0.92 * up, down, down, down, down, 0.92 * down, 0.9 * down]
    first = np.cross(AORTIC_AXIS, APEX)
    first /= np.linalg.norm(first)
    second = np.cross(AORTIC_AXIS, first)
    sinuses = []
    for turn in _SINUS_TURNS:
        aside = 0.36 * root * (np.cos(turn) * first + np.sin(turn) * second)
        sinuses.append(Ellipsoid(AORTIC_VALVE + 8.5 * AORTIC_AXIS + aside, (0.68 * root,) * 3))
    return [Tube(path, radii), *sinuses]


def pulmonary_shapes(p: HeartParameters, pose: Pose) -> tuple[Tube, list[Tube]]:
    """Return the trunk, and its right and left branch with their first divisions."""
    wide, thin = p.pulmonary_trunk_radius_mm / pose.scale, p.pulmonary_branch_radius_mm / pose.scale
    trunk = Tube([PULMONARY_VALVE - 3 * PULMONARY_AXIS, (-9, 25, 40), (-9, 8, 52), BIFURCATION], [wide] * 4)
    right = Tube([BIFURCATION, (14, -14, 54), (42, -18, 49), (62, -24, 42)], [thin * 1.1, thin, thin, 0.7 * thin])
    left = Tube(
        [BIFURCATION, (-22, -23, 59), (-37, -43, 54), (-46, -54, 38)], [thin * 1.1, thin, 0.95 * thin, 0.7 * thin]
    )
    lower = Tube([(55, -22, 45), (68, -38, 20), (72, -50, -10)], [0.65 * thin, 0.55 * thin, 0.35 * thin])
    deep = Tube([(-44, -52, 42), (-56, -62, 15), (-62, -68, -15)], [0.65 * thin, 0.55 * thin, 0.35 * thin])
    upper = Tube([(58, -23, 44), (72, -20, 66)], [0.5 * thin, 0.35 * thin])
    return trunk, [right, left, lower, deep, upper]


def coronaries(
    grid: VoxelGrid, p: HeartParameters, chambers: Mapping[str, np.ndarray], epicardium: np.ndarray
) -> np.ndarray:
    """Return the field of the coronary arteries, which lie in the grooves of this very heart.

    A groove is where two surfaces meet: the points at one distance from both. The anterior and posterior descending
    arteries lie between RV and LV, the circumflex between LA and LV, the right coronary artery between RA and RV.
    All taper away from the aortic root.
    """
    away = np.linalg.norm(grid.points - AORTIC_VALVE.astype(np.float32)[:, None, None, None], axis=0)
    radius = p.coronary_radius_mm * np.clip(1.15 - away / 150, 0.45, 1)
    lift = p.wall_mm + 1.5
    rv, ra, la = (chambers[name] - lift for name in ("RV", "RA", "LA"))
    wall = epicardium - 2.0
    grooves = [np.hypot(rv, wall), np.hypot(la, wall), np.hypot(ra, rv)]
    descending, circumflex, right = grooves
    circumflex = np.maximum(circumflex, away - 75)
    field = np.minimum.reduce([descending, circumflex, right]) - radius
    root, thin = p.aortic_root_radius_mm / grid.pose.scale, p.coronary_radius_mm / grid.pose.scale
    start = AORTIC_VALVE + 10 * AORTIC_AXIS
    stems = [
        Tube([start + np.array([-0.6 * root, -0.3 * root, 0]), (-6, 14, 20), (-14, 18, 12)], [thin] * 3),
        Tube([start + np.array([0.4 * root, 0.8 * root, 0]), (28, 36, 14), (36, 38, 2)], [thin] * 3),
    ]
    return np.minimum(field, grid.draw(*stems, margin_mm=8))

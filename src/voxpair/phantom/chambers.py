"""The chambers of the reference heart, each from a few smooth shapes, grown until it holds its volume.

In: a voxel grid, a patient, the field of where a chamber must not go. Out: fields of signed distance in mm.

Shapes: X Y Z voxel axes; all fields are (X, Y, Z), negative inside.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from voxpair.phantom.anatomy import HeartParameters
from voxpair.phantom.contrast import smooth_texture
from voxpair.phantom.cycle import LIFT, chamber_volumes, ventricle_axes, ventricles_emptied
from voxpair.phantom.frame import (
    AORTIC_AXIS,
    AORTIC_VALVE,
    APEX,
    FRAME,
    INFERIOR,
    LA_CENTRE,
    MITRAL_VALVE,
    PULMONARY_AXIS,
    PULMONARY_VALVE,
    RA_CENTRE,
    SEPTAL,
)
from voxpair.phantom.shapes import Ellipsoid, Tube, VoxelGrid, smooth_cut, smooth_union

_TYPICAL_RV_ML = 130.0
_APICAL, _TIP = (0.45, 0.8), (0.8, 1.0)
"""Between which depths, as shares of the way from the base to the end of the cavity, the wall thins."""
_TIP_SHARE, _TIP_RADIUS_MM = 0.87, 9.0
"""How much of the wall at the very apex is set by ``apex_wall_mm``, and how wide around the axis."""

Grow = Callable[[str, np.ndarray, np.ndarray], float]
"""(chamber, its own field, the field of where it must not go) -> by how many mm it grows."""


def left_ventricle(grid: VoxelGrid, p: HeartParameters, grow: Grow) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the cavity, muscle inside it (papillary muscles, trabeculae), and the ellipsoid the wall is measured from.

    A prolate ellipsoid cut a little above its equator (its base), and an outflow tract. The cavity counts the muscle
    inside it, as readers of CT count it.
    """
    radius, length = ventricle_axes(p, grid.pose.scale, ventricles_emptied(p.phase))
    body = grid.draw(Ellipsoid(LIFT * length * APEX, (radius, radius, length), FRAME), margin_mm=40)
    base = -grid.beyond(-2 * APEX, APEX)  # past the wall's edge, so that no sheet of wall closes the mitral valve
    start = 0.22 * length * APEX + 0.15 * radius * SEPTAL
    tract = grid.draw(Tube([start, AORTIC_VALVE + 4 * AORTIC_AXIS], [11.5, 11.0]))
    valve = grid.beyond(AORTIC_VALVE, AORTIC_AXIS)
    own = smooth_union(smooth_cut(body, base, 8), np.maximum(tract, valve), 5)
    annulus = grid.draw(Tube([AORTIC_VALVE - 8 * AORTIC_AXIS, AORTIC_VALVE + 4 * AORTIC_AXIS], [5.0, 9.0]))
    cavity = np.maximum(np.minimum(own - grow("LV", own, valve), annulus), valve)  # the outlet of a small LV stays wide
    muscles = []
    for side in (-0.75, 0.75):
        across = np.cos(side) * -SEPTAL + np.sin(side) * INFERIOR
        foot, head = radius * 0.95 * across + 0.66 * length * APEX, radius * 0.58 * across + 0.34 * length * APEX
        twin = head + 3.5 * (np.sin(side) * SEPTAL + np.cos(side) * INFERIOR) + 3 * APEX
        muscles.append(Tube([foot, head], [p.papillary_radius_mm, 0.7 * p.papillary_radius_mm]))
        muscles.append(Tube([foot, twin], [0.9 * p.papillary_radius_mm, 0.6 * p.papillary_radius_mm]))
    rng = np.random.default_rng([p.detail_seed, 7])
    apical = grid.beyond(0.25 * length * APEX, APEX) / length
    ridges = p.trabecula_mm * (smooth_texture(grid.axes, 5.0, rng) + 0.1 + np.clip(apical, -0.6, 0.4)) - 0.5
    inside = np.minimum(grid.draw(*muscles, blend_mm=2) if p.papillary_radius_mm > 0 else -cavity, -cavity - ridges)
    return cavity, np.maximum(inside, cavity), body


def wall_around(
    grid: VoxelGrid, p: HeartParameters, lv: np.ndarray, body: np.ndarray, grow: Grow
) -> tuple[np.ndarray, np.ndarray]:
    """Return what the epicardium encloses below the base, and how lateral each voxel is (-1 septum, 1 free wall).

    The wall is thickest at the basal front of the septum, thinner in the apical third and thinnest at the very apex,
    which keeps its few millimetres whatever the rest needs to hold its volume: the rest grows in proportion.
    """
    length = (1 + LIFT) * ventricle_axes(p, grid.pose.scale, ventricles_emptied(p.phase))[1]
    around = np.tensordot(FRAME.astype(np.float32), grid.points, axes=1)
    far = np.sqrt(around[0] ** 2 + around[1] ** 2 + 1)
    lateral = -around[0] / far
    septal_front = 0.75 * around[0] / far - 0.66 * around[1] / far
    down = around[2] / length
    apical = p.apical_thinning * _step(down, *_APICAL)
    tip = _TIP_SHARE * _step(down, *_TIP) * np.exp(-((far / _TIP_RADIUS_MM) ** 2))
    thickness = (1 + p.septal_thickening * septal_front) * (1 - apical) * (1 - tip)
    wall_mm = 12.0 * (p.myo_volume_ml / 125) ** (1 / 3)
    grown = (body - p.apex_wall_mm * tip) / thickness - wall_mm
    base = -grid.beyond((0, 0, 0), APEX)
    wall_mm += grow("MYO", grown, np.maximum(base, -lv))
    return np.maximum(body - p.apex_wall_mm * tip - wall_mm * thickness, base), lateral


def _step(value: np.ndarray, start: float, end: float) -> np.ndarray:
    """Return 0 where ``value`` is below ``start``, 1 above ``end``, a smooth step between."""
    share = np.clip((value - start) / (end - start), 0, 1)
    return share * share * (3 - 2 * share)


def left_atrium(grid: VoxelGrid, p: HeartParameters, blocked: np.ndarray, grow: Grow) -> tuple[np.ndarray, np.ndarray]:
    """Return the atrium with the first centimetre of its four veins, and the veins as far as they are seen."""
    radius, label_mm = p.vein_radius_mm / grid.pose.scale, p.vein_label_mm / grid.pose.scale
    ostia = [(40, -27, 19), (40, -29, 0), (-5, -28, 20), (-4, -32, 3)]
    ends = [(78, -30, 42), (80, -50, -12), (-46, -30, 48), (-46, -60, -8)]
    veins, stumps = [], []
    rng = np.random.default_rng([p.detail_seed, 14])
    for ostium, end in zip(np.array(ostia, float), np.array(ends, float)):
        outward = (end - ostium) / np.linalg.norm(end - ostium)
        inside, fork = ostium - 12 * outward, ostium + 22 * outward + rng.normal(0, 2.5, 3)
        veins.append(Tube([inside, ostium, ostium + 12 * outward, fork], [radius, radius, 0.95 * radius, 0.8 * radius]))
        for aside, thin in ((rng.normal(0, 7, 3), 0.62), (rng.normal(0, 16, 3), 0.5)):
            bend = 0.5 * (fork + end) + aside
            veins.append(Tube([fork, bend, end + 1.6 * aside], [0.75 * radius, thin * radius, 0.7 * thin * radius]))
        stumps.append(Tube([inside, ostium + max(label_mm - radius, 1) * outward], [radius, radius]))
    chamber = Ellipsoid(LA_CENTRE, (27, 19, 25))
    funnel = Tube([0.5 * (LA_CENTRE + MITRAL_VALVE), MITRAL_VALVE + 4 * APEX], [15, 14])
    own = grid.draw(chamber, funnel, *stumps, blend_mm=5, margin_mm=18)
    veins_beyond = np.maximum(grid.draw(*veins), blocked)
    return np.maximum(own - grow("LA", own, blocked), blocked), veins_beyond


def right_atrium(grid: VoxelGrid, p: HeartParameters, blocked: np.ndarray, grow: Grow) -> tuple[np.ndarray, np.ndarray]:
    """Return the atrium with its appendage and the first centimetre of both venae cavae, and these veins."""
    radius, label_mm = p.vena_cava_radius_mm / grid.pose.scale, p.vein_label_mm / grid.pose.scale
    upper = Tube([(47, 6, 0), (51, 1, 30), (52, 2, 60), (46, 4, 120)], [radius, radius, radius, 0.9 * radius])
    lower = Tube([(44, 2, -28), (41, -6, -50), (38, -14, -110)], [1.15 * radius, 1.15 * radius, 1.1 * radius])
    ear = Tube([(44, 24, 2), (36, 36, 16)], [12, 8])
    tricuspid = Tube([(44, 18, -13), (33, 28, -15)], [16, 15])
    chamber = grid.draw(Ellipsoid(RA_CENTRE, (21, 24, 28)), ear, tricuspid, blend_mm=6, margin_mm=18)
    cava = grid.draw(upper, lower)
    top = RA_CENTRE[2] + 28 + label_mm
    bottom = RA_CENTRE[2] - 28 - label_mm
    ends = np.maximum(grid.beyond((0, 0, top), (0, 0, 1)), -grid.beyond((0, 0, bottom), (0, 0, 1)))
    own = smooth_union(chamber, np.maximum(cava, ends), 4)
    blocked = np.maximum.reduce([blocked, grid.beyond(6 * APEX, APEX), ends])
    return np.maximum(own - grow("RA", own, blocked), blocked), cava


def right_ventricle(
    grid: VoxelGrid, p: HeartParameters, blocked: np.ndarray, grow: Grow
) -> tuple[np.ndarray, np.ndarray]:
    """Return the crescent around the septum with its outflow tract up to the pulmonary valve, and its trabeculae."""
    centre = 30 * APEX + 33 * SEPTAL - 2 * INFERIOR
    size = (chamber_volumes(p)["RV"] / grid.pose.scale**3 / _TYPICAL_RV_ML) ** (1 / 3)
    main = Ellipsoid(centre, np.array([24, 36, 46]) * size, FRAME)
    wide = p.infundibulum_radius_mm / grid.pose.scale
    path = [(10, 42, -18), (2, 43, 2), PULMONARY_VALVE + 2 * PULMONARY_AXIS]
    outflow = Tube(path, [1.2 * wide, wide, 0.92 * wide])
    inlet = Tube([(33, 29, -15), centre], [16 * size, 18 * size])
    own = grid.draw(main, outflow, inlet, blend_mm=8, margin_mm=18)
    blocked = np.maximum(blocked, grid.beyond(PULMONARY_VALVE, PULMONARY_AXIS))
    cavity = np.maximum(own - grow("RV", own, blocked), blocked)
    rng = np.random.default_rng([p.detail_seed, 8])
    apical = np.clip(grid.beyond(20 * APEX, APEX) / 40, -0.8, 0.8)
    ridges = p.trabecula_mm * (1.3 * smooth_texture(grid.axes, 6.0, rng) - 0.2 + 0.5 * apical) - 0.5
    return cavity, np.maximum(-cavity - ridges, cavity)

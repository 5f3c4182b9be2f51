"""The heart as implicit surfaces: eight labelled structures and the vessels that leave them.

In: a :class:`~voxpair.phantom.shapes.VoxelGrid` and :class:`~voxpair.phantom.anatomy.HeartParameters`.
Out: :class:`Heart`, one field of signed distance (mm, negative inside) per structure.

Reference frame: RAS millimetres of a typical adult heart, origin at the centre of the LV's base.

    symbol   here      meaning
    a        APEX      from base to apex: left, front, down
    r        SEPTAL    from LV towards RV: right, front
    n        INFERIOR  completes the frame: the wall on the diaphragm

Chambers meet the volume asked for by inflation: a chamber is grown by the one offset t for which the
volume of {distance < t} is right, after everything it must not enter has been cut away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from voxpair.core.errors import InputError
from voxpair.phantom.anatomy import HeartParameters
from voxpair.phantom.shapes import Ellipsoid, Pose, Tube, VoxelGrid, Warp, smooth_cut, smooth_union

APEX = np.array([-0.60, 0.55, -0.58]) / np.linalg.norm([-0.60, 0.55, -0.58])
SEPTAL = np.array([0.69, 0.72, -0.10]) - np.dot([0.69, 0.72, -0.10], APEX) * APEX
SEPTAL /= np.linalg.norm(SEPTAL)
INFERIOR = np.cross(APEX, SEPTAL)
FRAME = np.stack([SEPTAL, INFERIOR, APEX])

AORTIC_VALVE = np.array([14.0, 14.0, 12.0])
AORTIC_AXIS = np.array([0.60, 0.15, 0.78])
PULMONARY_VALVE = np.array([-4.0, 34.0, 25.0])
PULMONARY_AXIS = np.array([-0.25, -0.35, 0.90])
MITRAL_VALVE = np.array([-3.0, -5.8, -2.4])
LA_CENTRE = np.array([17.0, -18.0, 7.0])
RA_CENTRE = np.array([47.0, 12.0, -12.0])
BIFURCATION = np.array([-6.0, -6.0, 55.0])

_TYPICAL_ML = 540.0  # LV, MYO, RV, LA, RA of the reference heart: its cube root sets the scale
_CALIBRATION_MM = 3.5

Grow = Callable[[str, np.ndarray, np.ndarray], float]
"""(chamber, its own field, the field of where it must not go) -> by how many mm it grows."""


@dataclass(frozen=True)
class Heart:
    """Signed distances in mm, each (X, Y, Z).

    ``structures``: by label name, mutually exclusive. ``vessels``: blood that goes on beyond the labels:
    ``veins`` (pulmonary), ``cava``, ``pulmonary``, ``aorta``. ``laa_depth``: 0 at the appendage's orifice, 1 at its
    tip. ``lateral``: -1 at the septum, 1 at the lateral wall.
    """

    structures: dict[str, np.ndarray]
    vessels: dict[str, np.ndarray]
    laa_depth: np.ndarray
    lateral: np.ndarray


def heart_pose(parameters: HeartParameters) -> Pose:
    """Return how the reference heart is turned and scaled in this patient."""
    p = parameters
    total = p.lv_volume_ml + p.myo_volume_ml + p.rv_volume_ml + p.la_volume_ml + p.ra_volume_ml
    rotation = np.eye(3)
    for degrees, (i, j) in ((p.turn_axial_deg, (0, 1)), (p.turn_coronal_deg, (0, 2)), (p.turn_sagittal_deg, (1, 2))):
        turn = np.eye(3)
        cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        turn[i, i] = turn[j, j] = cosine
        turn[i, j], turn[j, i] = -sine, sine
        rotation = turn @ rotation
    return Pose(rotation, float((total / _TYPICAL_ML) ** (1 / 3)))


def heart_warp(parameters: HeartParameters) -> Warp:
    """Return this patient's smooth deformation."""
    rng = np.random.default_rng([parameters.detail_seed, 1])
    return Warp.random(rng, parameters.warp_mm, parameters.warp_width_mm)


def inflation(parameters: HeartParameters) -> dict[str, float]:
    """Return the offset t in mm per chamber that gives it its volume, found on a grid that holds the whole heart.

    Raises:
        InputError: a chamber cannot reach its volume.
    """
    offsets: dict[str, float] = {}
    lengths = (-90.0, 100.0), (-80.0, 90.0), (-95.0, 75.0)
    axes = [np.arange(low, high, _CALIBRATION_MM) for low, high in lengths]
    grid = VoxelGrid(axes, heart_warp(parameters), heart_pose(parameters))

    def grow(name: str, own: np.ndarray, blocked: np.ndarray) -> float:
        target = getattr(parameters, f"{name.lower()}_volume_ml")
        close = (own < 16) & (blocked < _CALIBRATION_MM)
        near, limit = own[close], blocked[close]

        def excess(offset: float) -> float:
            share = np.clip(0.5 - np.maximum(near - offset, limit) / _CALIBRATION_MM, 0, 1)
            return float(share.sum()) * _CALIBRATION_MM**3 / 1000 - target

        if excess(-14.0) > 0 or excess(14.0) < 0:
            raise InputError(
                f"heart parameter '{name.lower()}_volume_ml' = {target:.1f} does not fit beside the other chambers"
            )
        offsets[name] = float(brentq(excess, -14.0, 14.0, xtol=0.02))
        return offsets[name]

    _assemble(grid, parameters, grow)
    return offsets


def build_heart(grid: VoxelGrid, parameters: HeartParameters, offsets: dict[str, float]) -> Heart:
    """Return the heart on ``grid``, which must carry :func:`heart_warp` and :func:`heart_pose` of the same patient."""
    return _assemble(grid, parameters, lambda name, own, blocked: offsets[name])


def _assemble(grid: VoxelGrid, p: HeartParameters, grow: Grow) -> Heart:
    """Build the structures in the order in which they displace each other."""
    wall = p.wall_mm
    lv, body = _left_ventricle(grid, p, grow)
    epicardium, myo, lateral = _myocardium(grid, p, lv, body, grow)
    aorta = grid.draw(*_aorta_shapes(p), blend_mm=4)
    outflow = grid.beyond(AORTIC_VALVE, AORTIC_AXIS)
    in_front = grid.beyond((0, -36, 0), (0, 1, 0))  # the descending limb passes the valve's height behind the heart
    ao = np.maximum.reduce([aorta, np.minimum(-outflow, in_front), -lv])
    ao_label = _ascending_part(grid, ao, p)
    trunk, branches = _pulmonary_shapes(p)
    artery = np.maximum(grid.draw(trunk, *branches, blend_mm=5), -grid.beyond(PULMONARY_VALVE, PULMONARY_AXIS))
    artery = np.maximum.reduce([artery, wall - ao, wall - epicardium])
    reach = grid.draw(Ellipsoid(BIFURCATION, [p.pulmonary_label_extent_mm] * 3), trunk, margin_mm=20)
    pa = np.maximum(artery, reach)
    la, veins = _left_atrium(grid, p, np.maximum.reduce([-lv, 0.3 - epicardium, wall - ao, wall - artery]), grow)
    laa, depth = _appendage(grid, p, np.maximum.reduce([-la, 1 - epicardium, wall - ao, wall - artery, -veins]), grow)
    ra, cava = _right_atrium(
        grid, p, np.maximum.reduce([wall - la, wall - ao, wall - epicardium, wall - veins, wall - artery]), grow
    )
    rv = _right_ventricle(
        grid,
        p,
        np.maximum.reduce([-epicardium, 2 * wall - lv, wall - ao, -artery, -ra, 1 - laa, wall - la]),
        grow,
    )
    structures = {"MYO": np.maximum(myo, -ao), "LA": la, "LV": lv, "RA": ra, "RV": rv, "AO": ao_label}
    structures |= {"PA": pa, "LAA": laa}
    vessels = {"veins": veins, "cava": cava, "pulmonary": artery, "aorta": ao}
    return Heart(structures, vessels, depth, lateral)


def _left_ventricle(grid: VoxelGrid, p: HeartParameters, grow: Grow) -> tuple[np.ndarray, np.ndarray]:
    """Return the cavity, and the smooth ellipsoid from which the wall is measured.

    A prolate ellipsoid cut a little above its equator (its base), an outflow tract, less two papillary muscles.
    """
    volume = 1000 * p.lv_volume_ml * 0.94 / grid.pose.scale**3  # the outflow tract makes up the rest
    ratio = 2 * p.lv_elongation * 0.9
    lift = 0.12  # equator below the base, as a share of the long half-axis
    radius = (volume / (np.pi * ratio * (2 / 3 + lift - lift**3 / 3))) ** (1 / 3)
    length = ratio * radius
    ellipsoid = Ellipsoid(lift * length * APEX, (radius, radius, length), FRAME)
    body = grid.draw(ellipsoid, margin_mm=40)
    base = -grid.beyond((0, 0, 0), APEX)
    start = 0.22 * length * APEX + 0.15 * radius * SEPTAL
    tract = grid.draw(Tube([start, AORTIC_VALVE + 4 * AORTIC_AXIS], [11.5, 11.0]))
    tract = np.maximum(tract, grid.beyond(AORTIC_VALVE, AORTIC_AXIS))
    cavity = smooth_union(smooth_cut(body, base, 8), tract, 5)
    if p.papillary_radius_mm > 0:
        muscles = []
        for side in (-0.75, 0.75):
            across = np.cos(side) * -SEPTAL + np.sin(side) * INFERIOR
            foot, head = radius * 0.95 * across + 0.62 * length * APEX, radius * 0.62 * across + 0.36 * length * APEX
            muscles.append(Tube([foot, head], [p.papillary_radius_mm, 0.7 * p.papillary_radius_mm]))
        cavity = smooth_cut(cavity, -grid.draw(*muscles), 3)
    valve = grid.beyond(AORTIC_VALVE, AORTIC_AXIS)
    return np.maximum(cavity - grow("LV", cavity, valve), valve), body


def _myocardium(
    grid: VoxelGrid, p: HeartParameters, lv: np.ndarray, body: np.ndarray, grow: Grow
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what the epicardium encloses below the base, the wall (open there), and how lateral each voxel is."""
    around = np.tensordot(FRAME.astype(np.float32), grid.points, axes=1)
    lateral = -around[0] / np.sqrt(around[0] ** 2 + around[1] ** 2 + 1)
    down = np.clip(around[2] / 80, 0, 1)
    apical = p.apical_thinning * down**2 * (3 - 2 * down)
    mean_wall = 9.5 * (p.myo_volume_ml / 125) ** (1 / 3)
    shell = body - mean_wall * (1 - p.septal_thickening * lateral) * (1 - apical)
    base = -grid.beyond((0, 0, 0), APEX)
    outside = np.maximum(base, -lv)
    epicardium = np.maximum(shell - grow("MYO", shell, outside), base)
    return epicardium, np.maximum(epicardium, -lv), lateral


def _aorta_shapes(p: HeartParameters) -> list[Tube | Ellipsoid]:
    """Return root with its bulge, ascending part, arch and descending limb."""
    top = p.arch_height_mm
    root, up, down = p.aortic_root_radius_mm, p.ascending_radius_mm, p.descending_radius_mm
    path = [AORTIC_VALVE - 3 * AORTIC_AXIS, (20, 16, 23), (25, 17, 34), (28, 17, 52), (26, 9, 76 + top)]
    path += [(14, -8, 92 + top), (-1, -32, 94 + top), (-7, -53, 80 + top), (-6, -63, 55), (-3, -65, 0), (6, -66, -110)]
    radii = [0.75 * root, 0.85 * root, 0.9 * up, up, up, 0.9 * up, 0.95 * down, down, down, down, 0.92 * down]
    return [Tube(path, radii), Ellipsoid((19.5, 16, 22), (root, root, 0.8 * root))]


def _ascending_part(grid: VoxelGrid, aorta: np.ndarray, p: HeartParameters) -> np.ndarray:
    """Return what is labelled AO: from the valve over the arch, without the limb that runs down beside the spine."""
    behind = -grid.beyond((0, -36, 0), (0, 1, 0))
    below_arch = -grid.beyond((0, 0, 70 + p.arch_height_mm), (0, 0, 1))
    return np.maximum(aorta, np.minimum(behind, below_arch))


def _pulmonary_shapes(p: HeartParameters) -> tuple[Tube, list[Tube]]:
    """Return the trunk, and its right and left branch with their first divisions."""
    wide, thin = p.pulmonary_trunk_radius_mm, p.pulmonary_branch_radius_mm
    trunk = Tube([PULMONARY_VALVE - 3 * PULMONARY_AXIS, (-9, 25, 40), (-9, 8, 52), BIFURCATION], [wide] * 4)
    right = Tube([BIFURCATION, (14, -14, 54), (42, -18, 49), (62, -24, 42)], [thin * 1.1, thin, thin, 0.7 * thin])
    left = Tube(
        [BIFURCATION, (-22, -23, 59), (-37, -43, 54), (-46, -54, 38)], [thin * 1.1, thin, 0.95 * thin, 0.7 * thin]
    )
    lower = Tube([(55, -22, 45), (68, -38, 20), (72, -50, -10)], [0.65 * thin, 0.55 * thin, 0.35 * thin])
    deep = Tube([(-44, -52, 42), (-56, -62, 15), (-62, -68, -15)], [0.65 * thin, 0.55 * thin, 0.35 * thin])
    upper = Tube([(58, -23, 44), (72, -20, 66)], [0.5 * thin, 0.35 * thin])
    return trunk, [right, left, lower, deep, upper]


def _left_atrium(grid: VoxelGrid, p: HeartParameters, blocked: np.ndarray, grow: Grow) -> tuple[np.ndarray, np.ndarray]:
    """Return the atrium with the first centimetre of its four veins, and the veins as far as they are seen."""
    radius = p.vein_radius_mm
    ostia = [(40, -27, 19), (40, -29, 0), (-5, -28, 20), (-4, -32, 3)]
    ends = [(78, -30, 42), (80, -50, -12), (-46, -30, 48), (-46, -60, -8)]
    veins, stumps = [], []
    for ostium, end in zip(np.array(ostia, float), np.array(ends, float)):
        outward = (end - ostium) / np.linalg.norm(end - ostium)
        inside = ostium - 12 * outward
        veins.append(Tube([inside, ostium, end], [radius, radius, 0.6 * radius]))
        stumps.append(Tube([inside, ostium + max(p.vein_label_mm - radius, 1) * outward], [radius, radius]))
    chamber = Ellipsoid(LA_CENTRE, (27, 19, 25))
    funnel = Tube([0.5 * (LA_CENTRE + MITRAL_VALVE), MITRAL_VALVE + 4 * APEX], [15, 14])
    own = grid.draw(chamber, funnel, *stumps, blend_mm=5, margin_mm=18)
    veins_beyond = np.maximum(grid.draw(*veins), blocked)
    label = np.maximum(own - grow("LA", own, blocked), blocked)
    return label, veins_beyond


def appendage_shapes(p: HeartParameters) -> list[Tube]:
    """Return the appendage: a tapered tube with one bend, and its further lobes.

    It leaves the front of the left wall beside the upper left vein, and lies on the ventricle below the
    pulmonary trunk. Chicken wings bend sharply, cactuses carry thin lobes, cauliflowers are short and lobed all round.
    """
    wide, length = p.laa_orifice_radius_mm, p.laa_length_mm
    start, ahead, aside = np.array([-1.0, -12.0, 19.0]), np.array([-0.78, 0.52, 0.33]), np.array([0.10, 0.84, -0.53])
    ahead, aside = ahead / np.linalg.norm(ahead), aside / np.linalg.norm(aside)
    aside = (aside - aside @ ahead * ahead) / np.linalg.norm(aside - aside @ ahead * ahead)
    bend = np.radians(p.laa_bend_deg)
    beyond = np.cos(bend) * ahead + np.sin(bend) * aside
    elbow = start + 0.5 * length * ahead
    tip = elbow + 0.6 * length * beyond
    blunt = 0.75 if p.laa_morphology == "cauliflower" else 0.42
    shapes = [Tube([start - 8 * ahead, start, elbow, tip], [wide, wide, 0.78 * wide, blunt * wide])]
    thin, reach = (0.3, 0.45) if p.laa_morphology == "cactus" else (0.45, 0.3)
    normal = np.cross(ahead, aside)
    rng = np.random.default_rng([p.detail_seed, 2])
    for lobe in range(1, p.laa_lobes):
        root = elbow + rng.uniform(-0.1, 0.35) * length * beyond
        angle = 2.1 * lobe + rng.uniform(-0.5, 0.5)
        out = np.cos(angle) * normal + np.sin(angle) * np.cross(beyond, normal) + 0.4 * beyond
        shapes.append(Tube([root, root + reach * length * out], [1.3 * thin * wide, thin * wide]))
    return shapes


def _appendage(grid: VoxelGrid, p: HeartParameters, blocked: np.ndarray, grow: Grow) -> tuple[np.ndarray, np.ndarray]:
    """Return the appendage and how deep each voxel lies in it."""
    shapes = appendage_shapes(p)
    own = grid.draw(*shapes, blend_mm=2)
    first, last = np.array(shapes[0].path[1]), np.array(shapes[0].path[-1])
    depth = grid.beyond(first, last - first) / (grid.pose.scale * np.linalg.norm(last - first))
    return np.maximum(own - grow("LAA", own, blocked), blocked), depth


def _right_atrium(
    grid: VoxelGrid, p: HeartParameters, blocked: np.ndarray, grow: Grow
) -> tuple[np.ndarray, np.ndarray]:
    """Return the atrium with its appendage and the first centimetre of both venae cavae, and these veins."""
    radius = p.vena_cava_radius_mm
    upper = Tube([(47, 6, 0), (51, 1, 30), (52, 2, 60), (46, 4, 120)], [radius, radius, radius, 0.9 * radius])
    lower = Tube([(44, 2, -28), (41, -6, -50), (38, -14, -110)], [1.15 * radius, 1.15 * radius, 1.1 * radius])
    ear = Tube([(44, 24, 2), (36, 36, 16)], [12, 8])
    tricuspid = Tube([(44, 18, -13), (33, 28, -15)], [16, 15])
    chamber = grid.draw(Ellipsoid(RA_CENTRE, (21, 24, 28)), ear, tricuspid, blend_mm=6, margin_mm=18)
    cava = grid.draw(upper, lower)
    top = RA_CENTRE[2] + 28 + p.vein_label_mm
    bottom = RA_CENTRE[2] - 28 - p.vein_label_mm
    ends = np.maximum(grid.beyond((0, 0, top), (0, 0, 1)), -grid.beyond((0, 0, bottom), (0, 0, 1)))
    own = smooth_union(chamber, np.maximum(cava, ends), 4)
    blocked = np.maximum.reduce([blocked, grid.beyond(6 * APEX, APEX), ends])
    return np.maximum(own - grow("RA", own, blocked), blocked), cava


def _right_ventricle(grid: VoxelGrid, p: HeartParameters, blocked: np.ndarray, grow: Grow) -> np.ndarray:
    """Return the crescent around the septum, with its outflow tract up to the pulmonary valve."""
    centre = 30 * APEX + 33 * SEPTAL - 2 * INFERIOR
    main = Ellipsoid(centre, (24, 36, 46), FRAME)
    wide = p.infundibulum_radius_mm
    path = [(10, 42, -18), (2, 43, 2), PULMONARY_VALVE + 2 * PULMONARY_AXIS]
    outflow = Tube(path, [1.2 * wide, wide, 0.92 * wide])
    valve = grid.beyond(PULMONARY_VALVE, PULMONARY_AXIS)
    inlet = Tube([(33, 29, -15), centre], [16, 18])
    own = grid.draw(main, outflow, inlet, blend_mm=8, margin_mm=18)
    blocked = np.maximum(blocked, valve)
    return np.maximum(own - grow("RV", own, blocked), blocked)

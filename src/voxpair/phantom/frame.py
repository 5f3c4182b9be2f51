"""The reference heart's frame and landmarks: RAS millimetres of a typical adult, origin at the centre of the LV's base.

symbol   here      meaning
a        APEX      from base to apex: left, front, down
r        SEPTAL    from LV towards RV: right, front
n        INFERIOR  completes the frame: the wall on the diaphragm
"""

from __future__ import annotations

import numpy as np

from voxpair.core.errors import InputError
from voxpair.phantom.anatomy import HeartParameters
from voxpair.phantom.cycle import base_descent
from voxpair.phantom.shapes import Pose, VoxelGrid, Warp

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

_TYPICAL_ML = 550.0  # LV, MYO, RV at their largest, LA, RA at rest, of the reference heart: sets the scale
_MIDDLES = {"LV": 40 * APEX, "RV": 30 * APEX + 33 * SEPTAL, "LA": LA_CENTRE, "RA": RA_CENTRE}
_MOVED_BEHIND_MM = 55.0
"""How far behind the base the atria are stretched when it comes down."""


def heart_pose(p: HeartParameters) -> Pose:
    """Return how the reference heart is turned and scaled in this patient, the same in every phase."""
    atria = p.la_volume_ml * (1 - p.la_emptying / 2) + p.ra_volume_ml * (1 - p.ra_emptying / 2)
    total = p.lv_volume_ml + p.myo_volume_ml + p.rv_volume_ml + atria
    rotation = np.eye(3)
    for degrees, (i, j) in ((p.turn_axial_deg, (0, 1)), (p.turn_coronal_deg, (0, 2)), (p.turn_sagittal_deg, (1, 2))):
        turn = np.eye(3)
        cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        turn[i, i] = turn[j, j] = cosine
        turn[i, j], turn[j, i] = -sine, sine
        rotation = turn @ rotation
    return Pose(rotation, float((total / _TYPICAL_ML) ** (1 / 3)))


def heart_warp(p: HeartParameters) -> Warp:
    """Return this patient's smooth deformation."""
    rng = np.random.default_rng([p.detail_seed, 1])
    return Warp.random(rng, p.warp_mm, p.warp_width_mm)


def heart_grid(axes: list[np.ndarray], p: HeartParameters) -> VoxelGrid:
    """Return voxels that carry the patient's deformation and pose, and the descent of the base at this phase.

    The base is brought down by moving the voxels up: fully from the base to the apex, less and less behind it.
    """
    pose = heart_pose(p)
    grid = VoxelGrid(axes, heart_warp(p), pose)
    descent = base_descent(p, pose.scale)
    depth = np.tensordot(APEX.astype(np.float32), grid.points, axes=1)
    share = np.clip(1 + depth / _MOVED_BEHIND_MM, 0, 1)
    share = share * share * (3 - 2 * share) * np.float32(descent)
    return grid.moved(share[None] * -APEX.astype(np.float32)[:, None, None, None])


def check_field(axes: list[np.ndarray], p: HeartParameters) -> None:
    """Raise InputError, naming the parameter, if the middle of a chamber lies outside the field of view."""
    pose = heart_pose(p)
    for name, middle in _MIDDLES.items():
        for side, axis, at in zip(("right", "front", "head"), axes, pose.scale * pose.rotation @ middle):
            half = 0.5 * (axis[1] - axis[0])
            low, high = axis[0] - half, axis[-1] + half
            if not low <= at <= high:
                raise InputError(
                    f"the heart lies outside the field of view: the middle of the {name} is at {at:.0f} mm to the "
                    f"{side}, the field reaches from {low:.0f} to {high:.0f}; change 'offset_{side}_mm', "
                    "'field_of_view_mm' or 'spacing_mm'"
                )

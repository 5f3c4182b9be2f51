"""The heart as implicit surfaces: eight labelled structures and the vessels that leave them.

In: voxel axes and :class:`~voxpair.phantom.anatomy.HeartParameters`. Out: :class:`Heart`, one field of signed distance
(mm, negative inside) per structure.

Chambers meet the volume asked for by inflation: a chamber is grown by the one offset t for which the volume of
{distance < t} is right, after everything it must not enter has been cut away. The offsets are found once, on a coarse
grid that holds the whole heart; then any grid, or a part of one, shows the same heart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from voxpair.core.errors import InputError
from voxpair.phantom.anatomy import HeartParameters
from voxpair.phantom.appendage import ORIFICE, appendage_shapes, laid_free
from voxpair.phantom.chambers import Grow, left_atrium, left_ventricle, right_atrium, right_ventricle, wall_around
from voxpair.phantom.cycle import chamber_volumes
from voxpair.phantom.frame import (
    AORTIC_AXIS,
    AORTIC_VALVE,
    PULMONARY_AXIS,
    PULMONARY_VALVE,
    heart_grid,
)
from voxpair.phantom.shapes import FAR_MM, Tube, VoxelGrid
from voxpair.phantom.vessels import aorta_shapes, coronaries, pulmonary_shapes

PULMONARY_LABEL_MM = 30.0
"""How far from the trunk's axis the pulmonary artery is labelled: there is no true end, only a convention."""

_CALIBRATION_MM = 3.5
_EDGE_MM = 1.75
"""Width over which a voxel counts in part: less than a voxel, or small round shapes would seem too large."""
_REACH_MM = 16.0
"""Largest offset t in either direction."""
_CALIBRATION_FIELD_MM = (-95.0, 105.0), (-85.0, 95.0), (-100.0, 80.0)

Lay = Callable[[list[Tube], VoxelGrid, np.ndarray], list[Tube]]
"""(the appendage without neighbours, grid, where it must not go) -> the appendage as it lies."""


@dataclass(frozen=True)
class Calibration:
    """What makes one patient's chambers hold their volumes at one phase: ``offsets`` t (mm), the ``appendage`` laid."""

    offsets: dict[str, float]
    appendage: list[Tube]


@dataclass(frozen=True)
class Heart:
    """Signed distances in mm, each (X, Y, Z).

    ``structures``: by label name, mutually exclusive. ``vessels``: blood that goes on beyond the labels:
    ``veins`` (pulmonary), ``cava``, ``pulmonary``, ``aorta`` (of it ``ascending``), ``coronary``. ``muscles``:
    papillary muscles and trabeculae within LV and RV. ``reach``: how far the labels AO and PA go along their vessels.
    ``laa_depth``: 0 at the appendage's orifice, 1 at its tip. ``lateral``: -1 at the septum, 1 at the lateral wall.
    """

    structures: dict[str, np.ndarray]
    vessels: dict[str, np.ndarray]
    muscles: dict[str, np.ndarray]
    reach: dict[str, np.ndarray]
    laa_depth: np.ndarray
    lateral: np.ndarray


def inflation(p: HeartParameters) -> Calibration:
    """Return what gives each chamber its volume at the patient's phase.

    Raises:
        InputError: a chamber cannot reach its volume.
    """
    targets = chamber_volumes(p)
    offsets: dict[str, float] = {}
    appendage: list[Tube] = []
    grid = heart_grid([np.arange(low, high, _CALIBRATION_MM) for low, high in _CALIBRATION_FIELD_MM], p)

    def grow(name: str, own: np.ndarray, blocked: np.ndarray) -> float:
        close = (own < _REACH_MM + 2) & (blocked < _CALIBRATION_MM)
        near, limit = own[close], blocked[close]

        def excess(offset: float) -> float:
            share = np.clip(0.5 - np.maximum(near - offset, limit) / _EDGE_MM, 0, 1)
            return float(share.sum()) * _CALIBRATION_MM**3 / 1000 - targets[name]

        if excess(-_REACH_MM) > 0 or excess(_REACH_MM) < 0:
            raise InputError(
                f"heart parameter '{name.lower()}_volume_ml': {targets[name]:.1f} mL at phase {p.phase:.2f} "
                "do not fit beside the other chambers; take a size nearer to theirs"
            )
        offsets[name] = float(brentq(excess, -_REACH_MM, _REACH_MM, xtol=0.02))
        return offsets[name]

    def lay(shapes: list[Tube], within: VoxelGrid, blocked: np.ndarray) -> list[Tube]:
        appendage.extend(laid_free(shapes, within, blocked))
        return appendage

    _assemble(grid, p, grow, lay)
    return Calibration(offsets, appendage)


def build_heart(grid: VoxelGrid, p: HeartParameters, calibration: Calibration) -> Heart:
    """Return the heart on ``grid``, which must be a :func:`~voxpair.phantom.frame.heart_grid` of the same patient."""
    return _assemble(
        grid, p, lambda name, own, blocked: calibration.offsets[name], lambda shapes, *_: calibration.appendage
    )


def _assemble(grid: VoxelGrid, p: HeartParameters, grow: Grow, lay: Lay) -> Heart:
    """Build the structures in the order in which they displace each other."""
    wall = p.wall_mm
    lv, lv_muscle, body = left_ventricle(grid, p, grow)
    epicardium, lateral = wall_around(grid, p, lv, body, grow)
    ao, in_front = _aorta(grid, p, lv)
    ao_reach = np.full_like(ao, -FAR_MM) if p.aorta_label == "whole" else -in_front
    artery, pa_reach = _pulmonary_artery(grid, p, np.maximum(wall - ao, wall - epicardium))
    la, veins = left_atrium(grid, p, np.maximum.reduce([-lv, 0.3 - epicardium, wall - ao, wall - artery]), grow)
    blocked = np.maximum.reduce([-la, 1 - epicardium, wall - ao, wall - artery, 0.5 - veins])
    laa, depth = _appendage(grid, p, blocked, grow, lay)
    blocked = np.maximum.reduce([wall - la, wall - ao, wall - epicardium, wall - veins, wall - artery])
    ra, cava = right_atrium(grid, p, blocked, grow)
    blocked = np.maximum.reduce([-epicardium, 2 * wall - lv, wall - ao, -artery, -ra, 1 - laa, wall - la])
    rv, rv_muscle = right_ventricle(grid, p, blocked, grow)
    structures = {"MYO": np.maximum.reduce([epicardium, -lv, -ao]), "LA": la, "LV": lv, "RA": ra, "RV": rv}
    structures |= {"AO": np.maximum(ao, ao_reach), "PA": np.maximum(artery, pa_reach), "LAA": laa}
    vessels = {"veins": veins, "cava": cava, "pulmonary": artery, "aorta": ao, "ascending": np.maximum(ao, -in_front)}
    vessels["coronary"] = coronaries(grid, p, structures, epicardium)
    muscles, reach = {"LV": lv_muscle, "RV": rv_muscle}, {"AO": ao_reach, "PA": pa_reach}
    return Heart(structures, vessels, muscles, reach, depth, lateral)


def _aorta(grid: VoxelGrid, p: HeartParameters, lv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the aorta, and the field that is positive in front of mid-arch, where its ascending part runs."""
    aorta = grid.draw(*aorta_shapes(p, grid.pose), blend_mm=4)
    outflow = grid.beyond(AORTIC_VALVE, AORTIC_AXIS)
    in_front = grid.beyond((0, -36, 0), (0, 1, 0))  # the descending limb passes the valve's height behind the heart
    ao = np.maximum.reduce([aorta, np.minimum(-outflow, in_front), -lv])
    return ao, in_front


def _pulmonary_artery(grid: VoxelGrid, p: HeartParameters, blocked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pulmonary artery, and the field that is negative where it is labelled."""
    trunk, branches = pulmonary_shapes(p, grid.pose)
    valve = -grid.beyond(PULMONARY_VALVE, PULMONARY_AXIS)
    artery = np.maximum.reduce([grid.draw(trunk, *branches, blend_mm=5), valve, blocked])
    around = Tube(trunk.path, [PULMONARY_LABEL_MM / grid.pose.scale] * len(trunk.path))
    reach = grid.draw(around, margin_mm=30)
    return artery, reach


def _appendage(
    grid: VoxelGrid, p: HeartParameters, blocked: np.ndarray, grow: Grow, lay: Lay
) -> tuple[np.ndarray, np.ndarray]:
    """Return the appendage and how deep each voxel lies in it."""
    shapes = lay(appendage_shapes(p, grid.pose.scale), grid, blocked)
    own = grid.draw(*shapes, blend_mm=2)
    last = np.array(shapes[0].path[-1])
    depth = grid.beyond(ORIFICE, last - ORIFICE) / (grid.pose.scale * np.linalg.norm(last - ORIFICE))
    return np.maximum(own - grow("LAA", own, blocked), blocked), depth

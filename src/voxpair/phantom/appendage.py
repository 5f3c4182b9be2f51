"""The left atrial appendage: a tapered, bent tube with lobes, laid into the room that the other chambers leave.

In: a patient, and the field of where the appendage must not go. Out: its tubes, whose centrelines all keep clear of
that, so that nothing cuts a lobe off.

Sources: orifice 24.8 x 17 mm, an oval (Wang et al. 2010); four shapes, lobes and bend after the same and Ernst et al.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates

from voxpair.phantom.anatomy import HeartParameters
from voxpair.phantom.shapes import Tube, VoxelGrid

ORIFICE = np.array([-1.0, -12.0, 19.0])
_AHEAD = np.array([-0.62, 0.38, 0.68]) / np.linalg.norm([-0.62, 0.38, 0.68])
_ASIDE = np.array([0.05, 0.92, -0.40])
_ASIDE = (_ASIDE - _ASIDE @ _AHEAD * _AHEAD) / np.linalg.norm(_ASIDE - _ASIDE @ _AHEAD * _AHEAD)


@dataclass(frozen=True)
class _Build:
    """How one morphology is made; lengths are shares of the appendage's length, radii of the orifice's half width.

    ``elbow``: where it bends. ``taper``: radii at elbow, middle and tip. ``lobes_each``: how many lobes one of the
    patient's lobes counts for, the main one apart. ``turn``: angle (radians) from one lobe to the next. ``lobes_at``:
    where between elbow and tip they leave. ``lobe_length``, ``lobe_radius``.
    """

    elbow: float
    taper: tuple[float, float, float]
    lobes_each: int
    turn: float
    lobes_at: tuple[float, float]
    lobe_length: float
    lobe_radius: float


_BUILDS = {
    "windsock": _Build(0.45, (0.72, 0.56, 0.36), 1, 2.1, (0.3, 0.9), 0.22, 0.38),
    "chicken_wing": _Build(0.40, (0.62, 0.58, 0.34), 1, 2.1, (0.2, 0.6), 0.18, 0.40),
    "cauliflower": _Build(0.50, (0.78, 0.62, 0.42), 3, 2.4, (-0.3, 1.0), 0.30, 0.36),
    "cactus": _Build(0.45, (0.60, 0.46, 0.36), 2, 3.1, (-0.2, 0.7), 0.36, 0.32),
}
"""A windsock is one long lobe; a chicken wing one that folds back at its elbow; a cauliflower is short, without a
leading lobe, knobs all round; a cactus has a leading lobe with thin ones to either side."""
_STEP_MM, _STEPS, _NODE_MM = 0.7, 40, 6.0
_THINNEST_MM = 3.0
"""Radius below which a lobe could break when the appendage shrinks to its volume."""


def appendage_shapes(p: HeartParameters, scale: float) -> list[Tube]:
    """Return the appendage as it would grow without neighbours.

    It leaves the front of the left wall beside the upper left vein, and points to the ventricle below the pulmonary
    trunk. Two tubes side by side make the orifice oval.
    """
    build = _BUILDS[p.laa_morphology]
    short, aside_mm = 0.35 * p.laa_orifice_mm / scale, 0.15 * p.laa_orifice_mm / scale
    length, bend = p.laa_length_mm / scale, np.radians(p.laa_bend_deg)
    beyond = np.cos(bend) * _AHEAD + np.sin(bend) * _ASIDE
    normal = np.cross(_AHEAD, _ASIDE)
    elbow = ORIFICE + build.elbow * length * _AHEAD
    tip = elbow + (1 - build.elbow) * length * beyond
    middle = 0.5 * (elbow + tip)
    shapes = []
    for sign in (-1, 1):
        path = [ORIFICE - 8 * _AHEAD + sign * aside_mm * normal, ORIFICE + sign * aside_mm * normal]
        path += [elbow + 0.4 * sign * aside_mm * normal, middle, tip]
        shapes.append(Tube(path, [short, short, *(max(share * short, _THINNEST_MM) for share in build.taper)]))
    rng = np.random.default_rng([p.detail_seed, 2])
    thin = max(build.lobe_radius * short, _THINNEST_MM)
    for lobe in range(1, build.lobes_each * (p.laa_lobes - 1) + 1):
        root = elbow + rng.uniform(*build.lobes_at) * (1 - build.elbow) * length * beyond
        angle = build.turn * lobe + rng.uniform(-0.4, 0.4)
        out = np.cos(angle) * normal + np.sin(angle) * np.cross(beyond, normal) + rng.uniform(-0.1, 0.6) * beyond
        reach = build.lobe_length * rng.uniform(0.8, 1.2) * length
        shapes.append(Tube([root, root + 0.5 * reach * out, root + reach * out], [1.2 * thin, thin, 0.9 * thin]))
    return shapes


def laid_free(shapes: list[Tube], grid: VoxelGrid, blocked: np.ndarray) -> list[Tube]:
    """Return ``shapes`` with their centrelines pushed out of ``blocked`` (positive where they must not go).

    Each node beyond the orifice slides down the gradient of ``blocked`` until it keeps a clearance of four fifths of
    its radius or has gone ``_STEPS`` steps; a node in free space stays where it is.
    """
    shapes = [_with_nodes(tube) for tube in shapes]
    nodes = np.concatenate([tube.path for tube in shapes])
    radii = np.concatenate([tube.radii for tube in shapes])
    moving = np.linalg.norm(nodes - ORIFICE, axis=1) > 0.45 * radii[0] + 6
    gradient = np.gradient(blocked, *grid.spacing_mm)
    for _ in range(_STEPS):
        at = grid.locate(nodes)
        crowded = moving & (map_coordinates(blocked, at, order=1, mode="nearest") > -0.8 * radii * grid.pose.scale)
        if not crowded.any():
            break
        slope = np.stack([map_coordinates(part, at, order=1, mode="nearest") for part in gradient], axis=1)
        slope /= np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-6)
        nodes[crowded] -= _STEP_MM * (slope @ grid.pose.rotation)[crowded]
    ends = np.cumsum([len(tube.path) for tube in shapes])[:-1]
    return [Tube(path, tube.radii) for path, tube in zip(np.split(nodes, ends), shapes)]


def _with_nodes(tube: Tube) -> Tube:
    """Return ``tube`` with a node at least every ``_NODE_MM``, so that it can bend."""
    path, radii = np.asarray(tube.path, float), np.asarray(tube.radii, float)
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    at = np.union1d(along, np.linspace(0, along[-1], int(np.ceil(along[-1] / _NODE_MM)) + 1))
    return Tube(np.stack([np.interp(at, along, part) for part in path.T], axis=1), np.interp(at, along, radii))

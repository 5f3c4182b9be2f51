"""The left atrial appendage: a tapered, bent tube with lobes, laid into the room that the other chambers leave.

In: a patient, and the field of where the appendage must not go. Out: its tubes, whose centrelines all keep clear of
that, so that nothing cuts a lobe off.

Sources: orifice 24.8 x 17 mm, an oval (Wang et al. 2010); four shapes, lobes and bend after the same and Ernst et al.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import map_coordinates

from voxpair.phantom.anatomy import HeartParameters
from voxpair.phantom.shapes import Tube, VoxelGrid

ORIFICE = np.array([-1.0, -12.0, 19.0])
_AHEAD = np.array([-0.72, 0.46, 0.52]) / np.linalg.norm([-0.72, 0.46, 0.52])
_ASIDE = np.array([0.10, 0.84, -0.53])
_ASIDE = (_ASIDE - _ASIDE @ _AHEAD * _AHEAD) / np.linalg.norm(_ASIDE - _ASIDE @ _AHEAD * _AHEAD)
_STEP_MM, _STEPS, _NODE_MM = 0.7, 40, 6.0


def appendage_shapes(p: HeartParameters, scale: float) -> list[Tube]:
    """Return the appendage as it would grow without neighbours.

    It leaves the front of the left wall beside the upper left vein, and points to the ventricle below the pulmonary
    trunk. Two tubes side by side make the orifice oval. Chicken wings bend sharply, cactuses carry thin lobes,
    cauliflowers are short and lobed all round.
    """
    short, aside_mm = 0.35 * p.laa_orifice_mm / scale, 0.15 * p.laa_orifice_mm / scale
    length, bend = p.laa_length_mm / scale, np.radians(p.laa_bend_deg)
    beyond = np.cos(bend) * _AHEAD + np.sin(bend) * _ASIDE
    normal = np.cross(_AHEAD, _ASIDE)
    elbow = ORIFICE + 0.5 * length * _AHEAD
    middle, tip = elbow + 0.3 * length * beyond, elbow + 0.6 * length * beyond
    blunt = 0.75 if p.laa_morphology == "cauliflower" else 0.42
    shapes = []
    for sign in (-1, 1):
        path = [ORIFICE - 8 * _AHEAD + sign * aside_mm * normal, ORIFICE + sign * aside_mm * normal]
        path += [elbow + 0.5 * sign * aside_mm * normal, middle, tip]
        shapes.append(Tube(path, [short, short, 0.78 * short, (0.5 * blunt + 0.39) * short, blunt * short]))
    thin, reach = (0.36, 0.45) if p.laa_morphology == "cactus" else (0.5, 0.3)
    rng = np.random.default_rng([p.detail_seed, 2])
    for lobe in range(1, p.laa_lobes):
        root = elbow + rng.uniform(-0.1, 0.35) * length * beyond
        angle = 2.1 * lobe + rng.uniform(-0.5, 0.5)
        out = np.cos(angle) * normal + np.sin(angle) * np.cross(beyond, normal) + 0.4 * beyond
        shapes.append(
            Tube(
                [root, root + 0.5 * reach * length * out, root + reach * length * out],
                [max(1.3 * thin * short, 2.5), max(1.15 * thin * short, 2.5), max(thin * short, 2.5)],
            )
        )
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

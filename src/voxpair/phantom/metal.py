"""Metal in and around the heart: a pacemaker lead, wires in the sternum, a mechanical mitral valve, a coronary stent.

In: a patient. Out: tubes in heart coordinates, which beat and turn with the heart, and tubes in body coordinates.
"""

from __future__ import annotations

import numpy as np

from voxpair.phantom.anatomy import HeartParameters
from voxpair.phantom.bones import MIDLINE_MM, sternum_mm
from voxpair.phantom.frame import APEX, MITRAL_VALVE
from voxpair.phantom.shapes import Tube

_PROSTHESIS_MM = 13.0
"""Radius of a mechanical mitral valve."""
_WIRES_MM = (-36, -10, 18, 46, 74)
"""Heights of the wires that close the sternum."""


def metal_parts(p: HeartParameters) -> tuple[list[Tube], list[Tube]]:
    """Return metal in heart coordinates and metal in body coordinates."""
    if p.metal == "lead":
        path = [(50, 3, 110), (51, 2, 40), (44, 14, -8), (28, 32, -20), (2, 46, -28), (-14, 47, -34)]
        return [Tube(path, [1.1] * len(path))], []
    if p.metal == "valve":
        return [_ring(MITRAL_VALVE + 1.5 * APEX, APEX, _PROSTHESIS_MM, 1.3)], []
    if p.metal == "stent":
        return [Tube([(-12, 19, 14), (-17, 26, 8), (-21, 33, 1)], [p.coronary_radius_mm + 0.2] * 3)], []
    if p.metal == "wires":
        middle = sternum_mm(p)
        return [], [
            _ring(np.array([MIDLINE_MM, middle + 0.02 * z, z]), np.array([0, 0.2, 1]), 11.0, 0.9) for z in _WIRES_MM
        ]
    return [], []


def _ring(centre: np.ndarray, axis: np.ndarray, radius_mm: float, wire_mm: float) -> Tube:
    """Return a closed wire around ``axis``."""
    first = np.cross(axis, [0.0, 1.0, 0.3])
    first /= np.linalg.norm(first)
    second = np.cross(axis / np.linalg.norm(axis), first)
    turns = np.linspace(0, 2 * np.pi, 17)
    path = [centre + radius_mm * (np.cos(turn) * first + np.sin(turn) * second) for turn in turns]
    return Tube(path, [wire_mm] * len(path))

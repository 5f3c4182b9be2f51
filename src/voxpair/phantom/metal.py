"""Metal in and around the heart: pacemaker lead, wires in the sternum, a ring of a mechanical valve, a coronary stent.

In: a patient. Out: tubes in heart coordinates, which beat and turn with the heart, and tubes in body coordinates.
"""

from __future__ import annotations

import numpy as np

from voxpair.phantom.anatomy import HeartParameters
from voxpair.phantom.shapes import Tube
from voxpair.phantom.thorax import MIDLINE_MM, STERNUM_MM


def metal_parts(p: HeartParameters) -> tuple[list[Tube], list[Tube]]:
    """Return metal in heart coordinates (a pacemaker lead) and in body coordinates (wires around the sternum)."""
    if p.metal == "lead":
        path = [(50, 3, 110), (51, 2, 40), (44, 14, -8), (28, 32, -20), (2, 46, -28), (-14, 47, -34)]
        return [Tube(path, [1.1] * len(path))], []
    if p.metal == "wires":
        wires = []
        for z in (-36, -10, 18, 46, 74):
            angles = np.linspace(0, 2 * np.pi, 13)
            y = STERNUM_MM + 0.06 * z
            ring = [(MIDLINE_MM + 14 * np.cos(t), y + 7 * np.sin(t), z + 3 * np.cos(t)) for t in angles]
            wires.append(Tube(ring, [1.2] * len(ring)))
        return [], wires
    return [], []

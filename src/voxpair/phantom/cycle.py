"""The heart beat as volumes: how much each chamber holds at each moment.

In: a patient, who names the phase. Out: millilitres per structure, and how far the ventricles' base has come down.

Ventricles empty along a raised cosine until 0.35 of the beat, refill four fifths by 0.6, rest, and take the last
fifth from the atria after 0.8. Atria do the opposite; of their emptying 0.53 is passive, so that a left atrium of
103 mL and a stroke of 58 mL (Hudsmith et al. 2005) holds 72 mL at rest. The appendage is largest at 0.45 and
smallest at 0.05 of the beat. The wall keeps its volume: it thickens as the cavity shrinks. Times and shares are
choices of this design.

    symbol   here        meaning
    phi      phase       0 = R wave (end-diastole), 1 = the next one
    s        emptied     share of the stroke volume that has left the ventricles
"""

from __future__ import annotations

import numpy as np

from voxpair.phantom.anatomy import HeartParameters

_EJECTION_ENDS, _FILLING_ENDS, _KICK_STARTS = 0.35, 0.6, 0.8
_LEFT_FOR_KICK = 0.2
_PASSIVE = 0.53
_APPENDAGE_SWING = 0.15
_LONGER_WHEN_EMPTY = 0.4
_TRACT = 0.94
"""Share of the left ventricle's volume that its ellipsoid holds; the outflow tract makes up the rest."""
LIFT = 0.12
"""How far the ellipsoid's equator lies below the base, as a share of the long half-axis."""


def _ramp(phase: float, start: float, end: float) -> float:
    """Return 0 before ``start``, 1 after ``end``, half a cosine between."""
    return 0.5 - 0.5 * float(np.cos(np.pi * np.clip((phase - start) / (end - start), 0, 1)))


def ventricles_emptied(phase: float) -> float:
    """Return the share s of the stroke volume that is out of the ventricles.

    >>> [round(ventricles_emptied(phase), 3) for phase in (0.0, 0.35, 0.7, 1.0)]
    [0.0, 1.0, 0.2, 0.0]
    """
    out = _ramp(phase, 0, _EJECTION_ENDS)
    early = (1 - _LEFT_FOR_KICK) * _ramp(phase, _EJECTION_ENDS, _FILLING_ENDS)
    return max(0.0, out - early - _LEFT_FOR_KICK * _ramp(phase, _KICK_STARTS, 1))


def atria_emptied(phase: float) -> float:
    """Return the share of their stroke volume that is out of the atria.

    >>> [round(atria_emptied(phase), 3) for phase in (0.0, 0.35, 0.7, 1.0)]
    [1.0, 0.0, 0.53, 1.0]
    """
    passive = _PASSIVE * _ramp(phase, _EJECTION_ENDS, _FILLING_ENDS)
    return 1 - _ramp(phase, 0, _EJECTION_ENDS) + passive + (1 - _PASSIVE) * _ramp(phase, _KICK_STARTS, 1)


def chamber_volumes(p: HeartParameters) -> dict[str, float]:
    """Return mL of LV, MYO, RV, LA, RA and LAA at the patient's phase.

    The stroke volumes of both ventricles differ by no more than ``rv_stroke_share`` says.
    """
    out, drained = ventricles_emptied(p.phase), atria_emptied(p.phase)
    stroke = p.lv_ejection * p.lv_volume_ml
    swing = _ramp(p.phase, 0.05, 0.45) - _ramp(p.phase, 0.45, 1.05) + 1 - _ramp(p.phase, -0.55, 0.05)
    return {
        "LV": p.lv_volume_ml - stroke * out,
        "MYO": p.myo_volume_ml,
        "RV": p.rv_volume_ml - p.rv_stroke_share * stroke * out,
        "LA": p.la_volume_ml * (1 - p.la_emptying * drained),
        "RA": p.ra_volume_ml * (1 - p.ra_emptying * drained),
        "LAA": p.laa_volume_ml * (1 + _APPENDAGE_SWING * (2 * swing - 1)),
    }


def ventricle_axes(p: HeartParameters, scale: float, emptied: float) -> tuple[float, float]:
    """Return radius and long half-axis (reference mm) of the left ventricle's ellipsoid; it empties more in width.

    Args:
        p: the patient.
        scale: size of the patient's heart over that of the reference.
        emptied: share s of the stroke volume that is out.
    """
    volume = 1000 * p.lv_volume_ml * (1 - p.lv_ejection * emptied) * _TRACT / scale**3
    ratio = 1.8 * p.lv_elongation * (1 + _LONGER_WHEN_EMPTY * p.lv_ejection * emptied)
    radius = (volume / (np.pi * ratio * (2 / 3 + LIFT - LIFT**3 / 3))) ** (1 / 3)
    return float(radius), float(ratio * radius)


def base_descent(p: HeartParameters, scale: float) -> float:
    """Return by how much (reference mm) the base has come down towards the apex, which stays where it is."""
    full, now = (ventricle_axes(p, scale, emptied)[1] for emptied in (0.0, ventricles_emptied(p.phase)))
    return (1 + LIFT) * (full - now)

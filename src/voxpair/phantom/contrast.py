"""Contrast states: how bright each blood pool and tissue is, and how unevenly.

In: the name of a state and a generator. Out: a level in HU per structure, and per-voxel levels
where contrast streams (right heart), thins out (appendage) or perfuses unevenly (myocardium).

Source of the levels: reported CT means where there are any (aorta and left heart 325-328 HU, pulmonary
artery 320-357 HU, right ventricle 58-180 HU by injection protocol: Utsunomiya et al.; myocardium 79 HU
lateral, 104 HU elsewhere, on a 320-row scanner), at 120 kV. The late venous and non-contrast columns, and
all spreads, are choices of this design.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from voxpair.core.errors import InputError

ContrastState = Literal["arterial", "mixed", "late_venous", "non_contrast"]

# state: structure: (mean HU, SD between patients)
BLOOD_HU: dict[str, dict[str, tuple[float, float]]] = {
    "arterial": {"LV": (380, 70), "PA": (320, 90), "RV": (175, 90), "RA": (150, 90), "SVC": (640, 200)},
    "mixed": {"LV": (350, 60), "PA": (330, 70), "RV": (260, 60), "RA": (230, 70), "SVC": (420, 120)},
    "late_venous": {"LV": (170, 30), "PA": (165, 30), "RV": (165, 27), "RA": (165, 27), "SVC": (165, 27)},
    "non_contrast": {"LV": (42, 5), "PA": (42, 5), "RV": (42, 5), "RA": (42, 5), "SVC": (42, 5)},
}
TISSUE_HU: dict[str, dict[str, tuple[float, float]]] = {
    "arterial": {"MYO": (95, 15), "liver": (70, 15), "muscle": (55, 6)},
    "mixed": {"MYO": (105, 14), "liver": (90, 12), "muscle": (57, 6)},
    "late_venous": {"MYO": (110, 12), "liver": (110, 12), "muscle": (60, 6)},
    "non_contrast": {"MYO": (45, 4), "liver": (55, 6), "muscle": (50, 5)},
}
_ALWAYS_HU = {"fat": (-95, 8), "lung": (-860, 30), "marrow": (170, 45), "cortex": (850, 120)}
LEVELS = (*BLOOD_HU["arterial"], *TISSUE_HU["arterial"], *_ALWAYS_HU, "LA", "AO", "LAA", "streaming")
"""Names of the levels of one patient."""
_LOWEST_BLOOD_HU = {"arterial": 45.0, "mixed": 110.0, "late_venous": 110.0, "non_contrast": 30.0}
_LAA_DROP_HU = {"arterial": 60.0, "mixed": 60.0, "late_venous": 5.0, "non_contrast": 0.0}
_STREAMING_HU = {"arterial": 35.0, "mixed": 15.0, "late_venous": 4.0, "non_contrast": 0.0}
_SLOW_FLOW_SHARE = 0.065
"""Share of enhanced scans whose appendage fills so slowly that its tip stays dark."""
_ONE_BLOOD = {"non_contrast": 1.0, "late_venous": 0.9, "mixed": 0.6, "arterial": 0.6}
"""How far the levels of the pools rise and fall together, from patient to patient."""
_JET_MM = 12.0
"""How far inside a vena cava its blood is still unmixed."""
_LATTICE = 32
_INTERPOLATED_SD = 0.794
"""SD between the nodes of the lattice as a share of that at its nodes, whose neighbours correlate by 0.445."""


def check_state(state: str) -> None:
    """Raise InputError unless ``state`` is a contrast state."""
    if state not in get_args(ContrastState):
        raise InputError(f"unknown contrast state {state!r}; there are {', '.join(get_args(ContrastState))}")


def draw_levels(state: str, rng: np.random.Generator) -> dict[str, float]:
    """Draw one patient's levels in HU for ``state``.

    Returns:
        Levels of LV, LA, AO, LAA (at its tip), PA, RV, RA, SVC, MYO, liver, muscle, fat, lung, marrow and
        cortex, and ``streaming``: the SD within the right chambers. All in HU.

    Raises:
        InputError: ``state`` is unknown.

    >>> levels = draw_levels("arterial", np.random.default_rng(0))
    >>> levels["LV"] > levels["MYO"] > levels["fat"]
    True
    """
    check_state(state)
    shared, together = rng.normal(), _ONE_BLOOD[state]
    levels = {}
    for name, (mean, sd) in BLOOD_HU[state].items():
        deviate = together * shared + np.sqrt(1 - together**2) * rng.normal()
        levels[name] = max(float(mean + sd * np.clip(deviate, -2.5, 2.5)), _LOWEST_BLOOD_HU[state])
    for name, (mean, sd) in (TISSUE_HU[state] | _ALWAYS_HU).items():
        levels[name] = float(mean + sd * np.clip(rng.normal(), -2.5, 2.5))
    levels["LA"] = levels["LV"] + (float(rng.normal(0, 8)) if state != "non_contrast" else 0.0)
    levels["AO"] = levels["LV"] + (float(rng.normal(0, 8)) if state != "non_contrast" else 0.0)
    levels["LAA"] = levels["LA"] - float(rng.uniform(0, 1)) * _LAA_DROP_HU[state]
    slow = float(rng.uniform()) < _SLOW_FLOW_SHARE
    if slow and _LAA_DROP_HU[state] > 20:
        levels["LAA"] = float(rng.uniform(80, 200))
    levels["streaming"] = _STREAMING_HU[state] * float(rng.uniform(0.5, 1.5))
    return levels


def smooth_texture(axes: Sequence[np.ndarray], scale_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Return a smooth random field (X, Y, Z) of mean 0 and SD 1 whose structures are about ``scale_mm`` wide.

    It is drawn on a periodic lattice fixed in the body, so that a part of a grid holds the same as the whole.

    Args:
        axes: three arrays of voxel centres in body millimetres.
        scale_mm: step of the lattice.
        rng: the same state gives the same field everywhere.
    """
    field = _lattice(rng)
    for centres in axes:
        at = centres / scale_mm
        low = np.floor(at).astype(int)
        share = at - low
        share = share * share * (3 - 2 * share)
        weights = np.zeros((len(at), _LATTICE), np.float32)
        weights[np.arange(len(at)), low % _LATTICE] = 1 - share
        weights[np.arange(len(at)), (low + 1) % _LATTICE] = share
        field = np.tensordot(field, weights, (0, 1))  # takes the lattice's first axis, gives the grid's last
    return field


def streaming_level(level_hu: float, texture: np.ndarray, levels: Mapping[str, float]) -> np.ndarray:
    """Return per-voxel HU of a right chamber: mixed and unmixed blood side by side, never below plain blood."""
    return np.maximum(level_hu + levels["streaming"] * texture, min(30.0, level_hu))


def texture_at(points: np.ndarray, scale_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Return the field of :func:`smooth_texture` at any ``points`` (3, N) mm, shape (N,)."""
    return map_coordinates(_lattice(rng), points / scale_mm, order=1, mode="grid-wrap")


def _lattice(rng: np.random.Generator) -> np.ndarray:
    """Return a periodic random field that has SD 1 when it is interpolated."""
    field = gaussian_filter(rng.standard_normal([_LATTICE] * 3).astype(np.float32), 0.6, mode="wrap")
    return (field - field.mean()) / (field.std() * _INTERPOLATED_SD)


def inflow_level(cava: np.ndarray, cava_hu: np.ndarray, texture: np.ndarray, levels: Mapping[str, float]) -> np.ndarray:
    """Return per-voxel HU of the right atrium, in which the jets of both venae cavae mix with what is there.

    Args:
        cava: signed distance (X, Y, Z) mm of both veins.
        cava_hu: what they bring, (X, Y, Z).
        texture: smooth random field (X, Y, Z), SD 1.
        levels: of this patient.
    """
    mixed = np.clip(1 + cava / _JET_MM, 0, 1)
    return cava_hu + mixed * (streaming_level(levels["RA"], texture, levels) - cava_hu)


def appendage_level(depth: np.ndarray, levels: Mapping[str, float]) -> np.ndarray:
    """Return per-voxel HU of the appendage, from that of the LA at the orifice (depth 0) to its own at the tip (1)."""
    return levels["LA"] + (levels["LAA"] - levels["LA"]) * np.clip(depth, 0, 1)


def myocardium_level(lateral: np.ndarray, levels: Mapping[str, float], state: str) -> np.ndarray:
    """Return per-voxel HU of the myocardium; ``lateral`` runs from -1 (septum) to 1 (lateral wall, less enhanced)."""
    contrast = 0.0 if state == "non_contrast" else 10.0
    return levels["MYO"] - contrast * lateral

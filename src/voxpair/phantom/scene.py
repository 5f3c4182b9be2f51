"""One patient on a voxel grid: everything that is there, before any scanner looks at it.

In: voxel axes in body millimetres and :class:`~voxpair.phantom.anatomy.HeartParameters` (which name the cardiac
phase). Out: :class:`Scene`. The same patient at another phase is ``replace(parameters, phase=...)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from voxpair.phantom.anatomy import HeartParameters
from voxpair.phantom.contrast import (
    appendage_level,
    inflow_level,
    myocardium_level,
    smooth_texture,
    streaming_level,
)
from voxpair.phantom.frame import AORTIC_AXIS, AORTIC_VALVE, heart_grid, heart_warp
from voxpair.phantom.heart import Calibration, Heart, build_heart, inflation
from voxpair.phantom.layers import Layer
from voxpair.phantom.metal import metal_parts
from voxpair.phantom.shapes import Ellipsoid, VoxelGrid
from voxpair.phantom.thorax import pericardium, thorax_layers

_OVERLAP_MM = 3.0
"""By how much a vessel beyond its label overlaps the labelled part, so that no seam shows."""


@dataclass(frozen=True)
class Scene:
    """``layers`` in the order in which they are painted; ``metal``: signed distance (X, Y, Z) mm, None without any.

    ``pulmonary`` and ``pulmonary_reach`` are the fields whose common inside is labelled PA: the artery, and how far
    along it the label goes.
    """

    layers: list[Layer]
    metal: np.ndarray | None
    pulmonary: np.ndarray
    pulmonary_reach: np.ndarray


def build_scene(
    axes: Sequence[np.ndarray],
    p: HeartParameters,
    calibration: Calibration | None = None,
    heart_shift_mm: Sequence[float] = (0.0, 0.0, 0.0),
) -> Scene:
    """Return the patient ``p`` at the voxel centres ``axes``; a part of a grid holds what the whole grid holds there.

    Args:
        axes: three increasing arrays, RAS+ mm.
        p: the patient.
        calibration: :func:`~voxpair.phantom.heart.inflation` of ``p``, if it is known already.
        heart_shift_mm: how far the heart lies from its place: not every beat brings it back there.

    Raises:
        InputError: the parameters contradict each other.
    """
    body = VoxelGrid(axes, heart_warp(p))
    grid = heart_grid([axis - shift for axis, shift in zip(axes, heart_shift_mm)], p)
    heart = build_heart(grid, p, inflation(p) if calibration is None else calibration)
    below = grid.beyond((0, 0, 52), (0, 0, 1))
    within = heart.structures | {"AO": heart.vessels["ascending"]}
    layers = thorax_layers(body, p, *pericardium(within, p.epicardial_fat_mm, below), heart.structures["LA"])
    inner, outer = metal_parts(p)
    metal = None
    if inner or outer:
        metal = np.minimum(grid.draw(*inner, margin_mm=6), body.draw(*outer, margin_mm=6))
    return Scene(layers + _heart_layers(heart, grid, p), metal, heart.vessels["pulmonary"], heart.reach["PA"])


def _heart_layers(heart: Heart, grid: VoxelGrid, p: HeartParameters) -> list[Layer]:
    """Return walls, then vessels that go on beyond the labels, then the labelled structures and what lies in them."""
    levels, parts, vessels = p.levels_hu, heart.structures, heart.vessels
    texture = smooth_texture(grid.axes, 16.0, np.random.default_rng([p.detail_seed, 6]))
    fine = smooth_texture(grid.axes, 9.0, np.random.default_rng([p.detail_seed, 10]))
    mixing = 0.75 * texture + 0.65 * smooth_texture(grid.axes, 6.0, np.random.default_rng([p.detail_seed, 13]))
    muscle_hu = myocardium_level(heart.lateral, levels, p.contrast) + 3 * fine
    chambers = np.minimum.reduce([parts[name] for name in ("LA", "LV", "RA", "RV", "LAA")])
    pipes = np.minimum.reduce([vessels[name] for name in ("veins", "cava", "pulmonary", "aorta")])
    above = np.clip((grid.points[2] - 5) / 25, 0, 1)  # contrast comes from above; the lower vein brings plain blood
    cava = above * levels["SVC"] + (1 - above) * min(levels["RA"], 110.0)
    level = {name: levels[name] + 4 * fine for name in ("LA", "LV", "AO", "PA")}
    level["RA"] = inflow_level(vessels["cava"], cava, mixing, levels)
    level["RV"] = streaming_level(levels["RV"], mixing, levels)
    level["LAA"] = appendage_level(heart.laa_depth, levels)
    beyond = {  # no edge is painted twice, for that would move it
        name: np.maximum(vessels[vessel], -heart.reach[name] - _OVERLAP_MM)
        for name, vessel in (("AO", "aorta"), ("PA", "pulmonary"))
    }
    leaflets = np.maximum(np.abs(grid.beyond(AORTIC_VALVE, AORTIC_AXIS)) - 0.6, grid.draw(_valve(p)))
    calcium = np.maximum(vessels["coronary"] - 0.4, _calcified(grid, p))
    return [
        Layer(chambers - p.wall_mm, levels["MYO"] - 15),
        Layer(pipes - 1.6, levels["muscle"]),
        Layer(vessels["coronary"] - 0.5, levels["muscle"]),
        Layer(vessels["coronary"], levels["AO"], tissue="blood"),
        Layer(calcium, 900.0, tissue="calcium"),
        Layer(vessels["cava"], cava, tissue="blood"),
        Layer(vessels["veins"], level["LA"], tissue="blood"),
        Layer(beyond["PA"], level["PA"], tissue="blood"),
        Layer(beyond["AO"], level["AO"], tissue="blood"),
        Layer(parts["MYO"], muscle_hu, "MYO"),
        *(Layer(parts[name], level[name], name, "blood") for name in ("LA", "LV", "RA", "RV", "AO", "PA", "LAA")),
        Layer(heart.muscles["LV"], muscle_hu, "MYO", annotated=False),
        Layer(heart.muscles["RV"], muscle_hu, annotated=False),
        Layer(leaflets, levels["muscle"], "AO", annotated=False),
    ]


def _valve(p: HeartParameters) -> Ellipsoid:
    """Return a ball that holds the aortic valve, closed during diastole."""
    return Ellipsoid(AORTIC_VALVE, (0.8 * p.aortic_root_radius_mm,) * 3)


def _calcified(grid: VoxelGrid, p: HeartParameters) -> np.ndarray:
    """Return a field that is negative in the share of the coronary arteries that is calcified."""
    spots = smooth_texture(grid.axes, 5.0, np.random.default_rng([p.detail_seed, 11]))
    return ndtri(1 - p.coronary_calcium) - spots if p.coronary_calcium > 0 else np.ones_like(spots)

"""One patient on a voxel grid: everything that is there, before any scanner looks at it.

In: voxel axes in body millimetres and :class:`~voxpair.phantom.anatomy.HeartParameters` (which name the cardiac
phase). Out: :class:`Scene`. The same patient at another phase is ``replace(parameters, phase=...)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from voxpair.phantom.anatomy import HeartParameters
from voxpair.phantom.contrast import appendage_level, myocardium_level, smooth_texture, streaming_level
from voxpair.phantom.heart import Heart, build_heart, heart_pose, heart_warp, inflation
from voxpair.phantom.layers import Layer
from voxpair.phantom.metal import metal_parts
from voxpair.phantom.shapes import Pose, VoxelGrid
from voxpair.phantom.thorax import pericardium, thorax_layers


@dataclass(frozen=True)
class Scene:
    """``layers`` in the order in which they are painted; ``metal``: signed distance (X, Y, Z) mm, None without any."""

    layers: list[Layer]
    metal: np.ndarray | None


def build_scene(
    axes: Sequence[np.ndarray],
    p: HeartParameters,
    offsets: dict[str, float] | None = None,
    heart_shift_mm: Sequence[float] = (0.0, 0.0, 0.0),
) -> Scene:
    """Return the patient ``p`` at the voxel centres ``axes``; a part of a grid holds what the whole grid holds there.

    Args:
        axes: three increasing arrays, RAS+ mm.
        p: the patient.
        offsets: :func:`~voxpair.phantom.heart.inflation` of ``p``, if it is known already.
        heart_shift_mm: how far the heart lies from its place: not every beat brings it back there.

    Raises:
        InputError: the parameters contradict each other.
    """
    grid = body = VoxelGrid(axes, heart_warp(p), heart_pose(p))
    if any(heart_shift_mm):
        grid = VoxelGrid([axis - shift for axis, shift in zip(axes, heart_shift_mm)], heart_warp(p), heart_pose(p))
    heart = build_heart(grid, p, inflation(p) if offsets is None else offsets)
    body = body.with_pose(Pose())
    layers = thorax_layers(body, p, pericardium(heart.structures, p.epicardial_fat_mm))
    inner, outer = metal_parts(p)
    metal = None
    if inner or outer:
        metal = np.minimum(grid.draw(*inner, margin_mm=6), body.draw(*outer, margin_mm=6))
    return Scene(layers + _heart_layers(heart, grid, p), metal)


def _heart_layers(heart: Heart, grid: VoxelGrid, p: HeartParameters) -> list[Layer]:
    """Return walls, then vessels that go on beyond the labels, then the labelled structures."""
    levels, parts, vessels = p.levels_hu, heart.structures, heart.vessels
    rng = np.random.default_rng([p.detail_seed, 6])
    texture = smooth_texture(grid.axes, 16.0, rng)
    chambers = np.minimum.reduce([parts[name] for name in ("LA", "LV", "RA", "RV", "LAA")])
    pipes = np.minimum.reduce(list(vessels.values()))
    right_atrium = streaming_level(levels["RA"], texture, levels)
    inflow = np.clip(1 + vessels["cava"] / 14, 0, 1) if p.contrast != "non_contrast" else 1.0
    above = np.clip((grid.points[2] - 5) / 25, 0, 1)  # contrast comes from above; the lower vein brings plain blood
    upper = above * levels["SVC"] + (1 - above) * min(levels["RA"], 110.0)
    blood = {
        "LA": levels["LA"],
        "LV": levels["LV"],
        "AO": levels["AO"],
        "PA": levels["PA"],
        "RA": upper + inflow * (right_atrium - upper),
        "RV": streaming_level(levels["RV"], texture, levels),
        "LAA": appendage_level(heart.laa_depth, levels),
    }
    layers = [
        Layer(chambers - p.wall_mm, levels["muscle"] + 10),
        Layer(pipes - 1.6, levels["muscle"]),
        Layer(vessels["cava"], upper, tissue="blood"),
        Layer(vessels["veins"], levels["LA"], tissue="blood"),
        Layer(vessels["pulmonary"], levels["PA"], tissue="blood"),
        Layer(vessels["aorta"], levels["AO"], tissue="blood"),
        Layer(parts["MYO"], myocardium_level(heart.lateral, levels, p.contrast), "MYO"),
    ]
    return layers + [Layer(parts[name], level, name, "blood") for name, level in blood.items()]

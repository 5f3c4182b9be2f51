"""Layers: what a patient is made of, painted over one another from the skin inwards.

In: nothing. Out: :class:`Layer`, the one word that anatomy and acquisition share, and label maps made from layers.

    tissue      what it stands for
    air         gas in airways and stomach
    lung        lung tissue
    fat         all fat
    soft        muscle, gullet, walls of vessels, liver, myocardium, marrow-free soft tissue
    blood       blood, with or without contrast medium
    cartilage   discs and costal cartilage
    marrow      spongy bone
    bone        cortical bone
    calcium     calcified plaque

Shapes: X Y Z voxel axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from voxpair.core.labels import CARDIAC8, THORAX7

Tissue = Literal["air", "lung", "fat", "soft", "blood", "cartilage", "marrow", "bone", "calcium"]


@dataclass(frozen=True)
class Layer:
    """One painted tissue.

    ``distance``: signed distance (X, Y, Z) mm, negative inside. ``level_hu``: one number or one per voxel.
    ``label``: structure of ``CARDIAC8``, None paints background. ``region``: structure of ``THORAX7``, None keeps
    the region that lies beneath, as a vessel in a lung belongs to the lung. ``annotated``: False for what readers
    do not outline, such as trabeculae.
    """

    distance: np.ndarray
    level_hu: float | np.ndarray
    label: str | None = None
    tissue: Tissue = "soft"
    region: str | None = None
    annotated: bool = True


def label_map(layers: Sequence[Layer]) -> np.ndarray:
    """Return ``CARDIAC8`` values (X, Y, Z) uint8: that of the last layer around each voxel centre."""
    labels = np.zeros(layers[0].distance.shape, np.uint8)
    for layer in layers:
        labels[layer.distance < 0] = CARDIAC8.value_of(layer.label) if layer.label else 0
    return labels


def region_map(layers: Sequence[Layer]) -> np.ndarray:
    """Return ``THORAX7`` values (X, Y, Z) uint8."""
    regions = np.zeros(layers[0].distance.shape, np.uint8)
    for layer in layers:
        if layer.region:
            regions[layer.distance < 0] = THORAX7.value_of(layer.region)
    return regions

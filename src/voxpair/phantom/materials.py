"""What tissues are made of, for X-rays: water of some density, and iodine or bone mineral on top of it.

In: a :class:`~voxpair.phantom.layers.Layer`, whose level is in HU at 120 kV. Out: its level at another tube voltage, or
its amounts of material for the physical scanner.

    tissue            level without     what brightens it beyond that
    soft              55 HU             iodine
    blood             42 HU             iodine
    marrow            0 HU              bone mineral
    bone, calcium,    60 HU             bone mineral
    cartilage
    air, lung, fat    any               nothing

Fat is taken as thin water: its own, weaker dependence on the tube voltage is not modelled.
"""

from __future__ import annotations

import numpy as np

from voxpair.phantom.layers import Layer
from voxpair.phantom.physics import REFERENCE_KV, beam, contrast_gain

MATERIALS = ("water", "bone", "iodine")

Level = float | np.ndarray

_PLAIN_HU = {"soft": 55.0, "blood": 42.0, "marrow": 0.0, "bone": 60.0, "calcium": 60.0, "cartilage": 60.0}
_CARRIER = {tissue: "iodine" if tissue in ("soft", "blood") else "bone" for tissue in _PLAIN_HU}


def level_at(layer: Layer, tube_voltage_kv: int) -> Level:
    """Return the level of ``layer`` in HU at ``tube_voltage_kv``."""
    if tube_voltage_kv == REFERENCE_KV or layer.tissue not in _CARRIER:
        return layer.level_hu
    plain, added = _split(layer)
    return plain + added * contrast_gain(_CARRIER[layer.tissue], tube_voltage_kv)


def amounts(layer: Layer) -> tuple[Level, Level, Level]:
    """Return the amounts of ``MATERIALS`` in ``layer``, in the units of :mod:`voxpair.phantom.physics`."""
    if layer.tissue not in _CARRIER:
        return 1 + layer.level_hu / 1000, 0.0, 0.0
    plain, added = _split(layer)
    carrier = _CARRIER[layer.tissue]
    amount = added / beam(REFERENCE_KV).hu_per_unit(carrier)
    return (1 + plain / 1000, amount, 0.0) if carrier == "bone" else (1 + plain / 1000, 0.0, amount)


def density(levels: np.ndarray) -> np.ndarray:
    """Return the density against water (X, Y, Z), as seen at 120 kV, of painted amounts (X, Y, K, Z)."""
    worth = [1.0, *(beam(REFERENCE_KV).hu_per_unit(material) / 1000 for material in MATERIALS[1:])]
    return np.einsum("xykz,k->xyz", levels[:, :, : len(worth)], np.array(worth, np.float32))


def _split(layer: Layer) -> tuple[Level, Level]:
    plain = np.minimum(layer.level_hu, _PLAIN_HU[layer.tissue])
    return plain, layer.level_hu - plain

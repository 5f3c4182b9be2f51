"""X-rays through a patient: the spectrum of the tube, what each material takes from it, and what is left to count.

In: a tube voltage, and paths through materials. Out: the detector's signal, and paths read back from it as a scanner
does that knows water only: whatever is not water hardens the beam further and is misread, as in life.

Sources: photon cross-sections of NIST (Hubbell & Seltzer, NISTIR 5632), cortical bone of ICRU report 44;
bremsstrahlung after Kramers 1923: fluence ~ (E_max - E) / E. Characteristic lines, scatter and the bow-tie filter are
left out.

    symbol   here          meaning
    E        energies_kev  centres of the energy bins
    S(E)     weights       share of the unattenuated signal: fluence behind the filter x E, since detectors integrate
    mu(E)    attenuation   linear attenuation per mm at unit amount of a material
    L        path          water path in mm
    T(L)     signal        share of the signal that a path leaves

Amounts of the materials: ``water`` is density against water; ``bone`` and metals are shares of a voxel's volume that
take the place of water; ``iodine`` is g/mL on top of what is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import numpy as np

from voxpair.core.errors import InputError

TubeVoltage = Literal[70, 80, 100, 120, 140]
REFERENCE_KV: TubeVoltage = 120
REFERENCE_PATH_MM = 240.0
"""Water path at which HU of other materials are stated: about what a ray meets on its way through the heart."""

_FILTER_MM = 7.0  # of aluminium: the tube's own, the flat filter and the middle of a bow-tie
_BIN_EDGES_KEV = (20.0, 27.0, 33.17, 40.0, 48.0, 56.0, 64.0, 74.0, 86.0, 100.0, 118.0, 140.0)  # 33.17: iodine's K edge

# cm^2/g at these energies in keV
_ENERGIES = (20.0, 30.0, 33.169, 33.17, 40.0, 50.0, 60.0, 80.0, 100.0, 150.0)
_MASS_ATTENUATION = {
    "water": (0.8096, 0.3756, None, None, 0.2683, 0.2269, 0.2059, 0.1837, 0.1707, 0.1505),
    "bone": (4.001, 1.331, None, None, 0.6655, 0.4242, 0.3148, 0.2229, 0.1855, 0.1480),
    "iodine": (25.43, 8.561, 6.553, 35.82, 22.10, 12.32, 7.579, 3.510, 1.942, 0.6978),
    "aluminium": (3.441, 1.128, None, None, 0.5685, 0.3681, 0.2778, 0.2018, 0.1704, 0.1378),
    "titanium": (15.85, 4.972, None, None, 2.214, 1.213, 0.7661, 0.4052, 0.2721, 0.1649),
    "steel": (25.68, 8.176, None, None, 3.629, 1.958, 1.205, 0.5952, 0.3717, 0.1964),
}
_DENSITY = {"water": 1.0, "bone": 1.92, "iodine": 1.0, "aluminium": 2.699, "titanium": 4.54, "steel": 7.874}
_TYPICAL_LOAD = {"iodine": 1.1, "bone": 12.0}
"""Amount x mm on a ray through the heart: 11 mg/mL over 100 mm of blood; 12 mm of bone."""
_REPLACES_WATER = ("bone", "titanium", "steel")


def attenuation(material: str, energies_kev: np.ndarray) -> np.ndarray:
    """Return mu (E,) per mm at unit amount of ``material``, log-log between the tabulated energies.

    >>> attenuation("water", np.array([60.0])).round(5).tolist()
    [0.02059]
    """
    pairs = [(e, value) for e, value in zip(_ENERGIES, _MASS_ATTENUATION[material]) if value is not None]
    tabulated = np.log(np.array(pairs))
    mass = np.exp(np.interp(np.log(energies_kev), tabulated[:, 0], tabulated[:, 1]))
    return mass * _DENSITY[material] / 10


@dataclass(frozen=True)
class Beam:
    """A filtered spectrum as the detector weighs it: ``energies_kev`` (E,), ``weights`` (E,) that add up to one."""

    tube_voltage_kv: int
    energies_kev: np.ndarray
    weights: np.ndarray

    def added(self, material: str) -> np.ndarray:
        """Return by how much mu (E,) per mm rises with one unit of ``material``."""
        mu = attenuation(material, self.energies_kev)
        return mu - attenuation("water", self.energies_kev) if material in _REPLACES_WATER else mu

    def signal(self, paths: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return T, the share of the signal left behind ``paths``: amount x mm per material, arrays of one shape."""
        coefficients = np.stack([self.added(material) for material in paths], 1).astype(np.float32)
        stacked = np.stack([path.ravel() for path in paths.values()]).astype(np.float32)
        passed = np.exp(-(coefficients @ stacked))
        return (self.weights.astype(np.float32) @ passed).reshape(next(iter(paths.values())).shape)

    def slope(self, material: str, path_mm: np.ndarray | float = REFERENCE_PATH_MM) -> np.ndarray:
        """Return d(-log T) per mm of one unit of ``material``, behind ``path_mm`` of water."""
        path = np.atleast_1d(np.asarray(path_mm, float))
        left = self.weights * np.exp(-np.multiply.outer(path, attenuation("water", self.energies_kev)))
        return (left @ self.added(material)) / left.sum(1)

    def hu_per_unit(self, material: str) -> float:
        """Return by how many HU one unit of ``material`` brightens water, for as much of it as a heart or chest holds.

        The beam hardens on the way, so this is a little less than for a trace of the material.
        """
        load = _TYPICAL_LOAD.get(material, 0.1)
        behind = self.signal({"water": np.array([REFERENCE_PATH_MM]), material: np.array([load])})
        return float(1000 * (self.water_path(behind)[0] - REFERENCE_PATH_MM) / load)

    def water_path(self, signal: np.ndarray) -> np.ndarray:
        """Return the path L in mm of water that leaves ``signal``: the scanner's correction for beam hardening."""
        reading, path = _water_table(self.tube_voltage_kv)
        measured = -np.log(signal)
        steps = (measured - reading[0]) / (reading[1] - reading[0])
        low = np.clip(steps.astype(np.int32), 0, len(path) - 2)
        return path[low] + (steps - low) * (path[low + 1] - path[low])


@cache
def beam(tube_voltage_kv: int) -> Beam:
    """Return the beam of a tube at ``tube_voltage_kv``.

    Raises:
        InputError: the voltage is none of those that scanners offer.

    >>> round(float(beam(120).energies_kev @ beam(120).weights))
    66
    """
    if tube_voltage_kv not in get_args(TubeVoltage):
        choices = ", ".join(map(str, get_args(TubeVoltage)))
        raise InputError(f"setting 'tube_voltage_kv' must be one of {choices}, got {tube_voltage_kv}")
    fine = np.arange(20.25, tube_voltage_kv, 0.5)
    signal = (tube_voltage_kv - fine) * np.exp(-attenuation("aluminium", fine) * _FILTER_MM)  # fluence x E
    which = np.digitize(fine, _BIN_EDGES_KEV)
    bins = np.unique(which)
    weights = np.array([signal[which == i].sum() for i in bins])
    centres = np.array([fine[which == i] @ signal[which == i] for i in bins]) / weights
    return Beam(tube_voltage_kv, centres, weights / weights.sum())


def contrast_gain(material: str, tube_voltage_kv: int) -> float:
    """Return how many times brighter than at 120 kV ``material`` is.

    >>> contrast_gain("iodine", 120), contrast_gain("iodine", 80) > contrast_gain("iodine", 100) > 1.2
    (1.0, True)
    """
    return beam(tube_voltage_kv).hu_per_unit(material) / beam(REFERENCE_KV).hu_per_unit(material)


@cache
def _water_table(tube_voltage_kv: int) -> tuple[np.ndarray, np.ndarray]:
    """Return -log T at even steps and the water path of each; it goes on in both directions beyond what occurs."""
    tube = beam(tube_voltage_kv)
    path = np.linspace(0, 3000, 12001)
    mu = attenuation("water", tube.energies_kev)
    log_signal = np.log(np.exp(-np.multiply.outer(path, mu)) @ tube.weights)
    reading = np.linspace(0, -log_signal[-1], 8001)
    return reading, np.interp(reading, -log_signal, path)

"""A scan of a patient: CT, fast or physical, or an MRI-like image of the same anatomy.

In: a patient, voxel axes, how to scan (:class:`ScanSettings`, the same for a cohort; :class:`Scan`, another for each
patient). Out: :class:`Scanned`, an image with the labels of what it shows.

    mode       resolution                     noise                            metal, motion, beam hardening
    fast       the kernel's blur              the kernel's texture, as loud    metal projected alone, phases
                                              as the rays' paths make it       averaged, none
    physical   projections, reconstructed     counted quanta                   by themselves

Both modes share the geometry, the kernel and the number of quanta, hence texture and loudness of their noise.

Shapes: X Y Z voxel axes; an axial slice is one (X, Y) plane.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from pydantic import Field

from voxpair.core.settings import Settings
from voxpair.phantom.anatomy import HeartParameters
from voxpair.phantom.heart import Calibration, inflation
from voxpair.phantom.kernels import Kernel, blur, noise
from voxpair.phantom.magnetic import magnetic_image, signal_of
from voxpair.phantom.materials import MATERIALS, amounts, density, level_at
from voxpair.phantom.painting import Levels, Painting, Step, paint_patient
from voxpair.phantom.physics import TubeVoltage
from voxpair.phantom.tomography import Scanner, surroundings

SATURATION_HU = 3071.0
_AIR_HU = -1000.0
_NOTHING = [0.0] * len(MATERIALS)
_METAL = {"lead": "steel", "wires": "steel", "valve": "titanium", "stent": "steel"}
_NOISE_GRID_MM = (9.0, 16.0)
_CHEST_GRID_MM = (3.0, 4.0)
"""Distances of pixels and slices of the chest around a scan: to say how loud its noise is, and to project it."""
_BEATS = 3
"""Phases of the heart that stand for its motion during a scan."""
_COLLIMATION_MM = 40.0
"""How much of the body one heart beat contributes to a scan."""


class ScanSettings(Settings):
    """How a cohort is scanned.

    Attributes:
        modality: CT in HU, or an MRI-like image in arbitrary units.
        mode: of CT: fast, or physical by projections; see :mod:`voxpair.phantom.acquisition`.
        kernel: of CT: reconstruction kernel, that is resolution and texture of the noise.
        noise_hu: of CT: SD of the noise in the middle of the image at 120 kV, dose 1 and the standard kernel.
        dose: of CT: quanta against that scan; half of it is 1.4 times as noisy.
        tube_voltage_kv: of CT: iodine is 1.7 times brighter at 80 than at 120 kV.
        motion: probability that the heart moves during the scan.
        stepped: probability that the heart lies elsewhere in each beat, so that the scan has steps.
    """

    modality: Literal["ct", "mr"] = "ct"
    mode: Literal["fast", "physical"] = "fast"
    kernel: Kernel = "standard"
    noise_hu: float = Field(25.0, ge=0, le=1000)
    dose: float = Field(1.0, ge=1e-3, le=1e3)
    tube_voltage_kv: TubeVoltage = 120
    motion: float = Field(0.1, ge=0, le=1)
    stepped: float = Field(0.05, ge=0, le=1)


@dataclass(frozen=True)
class Scan:
    """What happens during one scan.

    ``heart_rate_bpm``; ``window_ms``: how long the heart is looked at (0: it stands still); ``steps``: (mm above the
    lowest slice, shift of the heart to the right and to the front in mm) per beat; ``seed`` of the noise.
    """

    heart_rate_bpm: float = 60.0
    window_ms: float = 0.0
    steps: tuple[Step, ...] = ()
    seed: int = 0

    @classmethod
    def draw(cls, rng: np.random.Generator, settings: ScanSettings) -> Scan:
        """Draw what happens to one patient; those whose heart moves have a fast heart."""
        moves, is_stepped = rng.uniform(size=2) < (settings.motion, settings.stepped)
        rate = rng.uniform(75, 95) if moves else rng.uniform(52, 68)
        window = rng.uniform(140, 175)
        first = rng.uniform(0.3, 1) * _COLLIMATION_MM
        shifts = rng.normal(0, 1.8, (12, 2))
        steps = tuple((first + k * _COLLIMATION_MM, *map(float, shift)) for k, shift in enumerate(shifts))
        seed = int(rng.integers(2**62))
        return cls(float(rate), float(window) if moves else 0.0, steps if is_stepped else (), seed)

    def phases(self, p: HeartParameters) -> list[HeartParameters]:
        """Return the patient at even times of the scan; itself if its heart stands still."""
        if self.window_ms == 0:
            return [p]
        reach = self.window_ms * self.heart_rate_bpm / 60_000
        return [replace(p, phase=float((p.phase + reach * t) % 1)) for t in np.linspace(-0.5, 0.5, _BEATS)]


@dataclass(frozen=True)
class Scanned:
    """``image`` (X, Y, Z) float32, and what it shows at the middle of the scan, as in :class:`Painting`."""

    image: np.ndarray
    labels: np.ndarray
    outlined: np.ndarray
    regions: np.ndarray


def acquire(
    axes: Sequence[np.ndarray], p: HeartParameters, settings: ScanSettings, scan: Scan, pulmonary_shift_mm: float = 0.0
) -> Scanned:
    """Return a scan of ``p`` at the voxel centres ``axes`` (RAS+ mm).

    ``pulmonary_shift_mm`` is the reader's: see :func:`~voxpair.phantom.painting.paint_patient`.

    Raises:
        InputError: the patient's parameters contradict each other.
    """
    phases = scan.phases(p)
    calibrations = [inflation(phase) for phase in phases]
    steps = [(axes[2][0] + height, right, front) for height, right, front in scan.steps]
    how = (*_levels(settings), steps, pulmonary_shift_mm)
    beats = [paint_patient(axes, phase, calibration, *how) for phase, calibration in zip(phases, calibrations)]
    middle = len(beats) // 2
    rng = np.random.default_rng(scan.seed)
    if settings.modality == "mr":
        levels, metal = _mean(beats)
        image = magnetic_image(levels[:, :, 0], metal, axes, rng)
    else:
        form = _fast if settings.mode == "fast" else _physical
        image = np.clip(form(axes, beats, p, calibrations[middle], settings, rng), -1024, SATURATION_HU)
    shown = beats[middle]
    return Scanned(image.astype(np.float32, copy=False), shown.labels, shown.outlined, shown.regions)


def _levels(settings: ScanSettings) -> tuple[Levels, list[float]]:
    """Return what is painted for a scan, and the same of air."""
    if settings.modality == "mr":
        return lambda layer: [signal_of(layer)], [0.0]
    if settings.mode == "fast":
        return lambda layer: [level_at(layer, settings.tube_voltage_kv)], [_AIR_HU]
    return amounts, _NOTHING


def _mean(beats: Sequence[Painting]) -> tuple[np.ndarray, np.ndarray | None]:
    """Return levels and metal over the time of the scan: the trapezoid rule."""
    if len(beats) == 1:
        return beats[0].levels, beats[0].metal
    weights = np.ones(len(beats), np.float32)
    weights[[0, -1]] = 0.5
    weights /= weights.sum()
    levels = sum(w * beat.levels for w, beat in zip(weights, beats))
    return levels, None if beats[0].metal is None else sum(w * beat.metal for w, beat in zip(weights, beats))


def _fast(
    axes: Sequence[np.ndarray],
    beats: Sequence[Painting],
    p: HeartParameters,
    calibration: Calibration,
    settings: ScanSettings,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the image (X, Y, Z) in HU by the image-domain models."""
    spacing_mm = np.array([axis[1] - axis[0] for axis in axes])
    levels, metal = _mean(beats)
    image = levels[:, :, 0]
    image = blur(image, spacing_mm, settings.kernel)
    scanner = Scanner.for_grid(axes, settings.kernel, settings.tube_voltage_kv)
    if metal is not None:
        image += scanner.metal_hu(metal, _METAL[p.metal])
    if settings.noise_hu == 0:
        return image
    grid = surroundings(axes, *_NOISE_GRID_MM)
    chest = density(paint_patient(grid.axes, p, calibration, amounts, _NOTHING).levels)
    loudness = scanner.exposed(settings.noise_hu, settings.dose, chest, grid).noise_hu(chest, grid)
    return image + loudness * noise(image.shape, spacing_mm, settings.kernel, rng)


def _physical(
    axes: Sequence[np.ndarray],
    beats: Sequence[Painting],
    p: HeartParameters,
    calibration: Calibration,
    settings: ScanSettings,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the image (X, Y, Z) in HU by projections through the whole chest."""
    grid = surroundings(axes, *_CHEST_GRID_MM)
    chest = paint_patient(grid.axes, p, calibration, amounts, _NOTHING)
    scanner = Scanner.for_grid(axes, settings.kernel, settings.tube_voltage_kv)
    scanner = scanner.exposed(settings.noise_hu, settings.dose, density(chest.levels), grid)
    materials = [*MATERIALS, *([_METAL[p.metal]] if p.metal != "no" else [])]
    return scanner.image([_with_metal(beat) for beat in beats], _with_metal(chest), grid, materials, rng)


def _with_metal(painting: Painting) -> np.ndarray:
    """Return amounts (X, Y, K + 1, Z) with the metal's share last; it takes the place of everything else."""
    if painting.metal is None:
        return painting.levels
    metal = painting.metal[:, :, None]
    amounts_ = np.concatenate([painting.levels * (1 - metal), metal], 2)
    amounts_[:, :, 0] += painting.metal  # as a share of volume it is counted against the water it replaces
    return amounts_

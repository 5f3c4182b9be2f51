"""The physical scanner: polychromatic X-rays through the whole chest, counted, and reconstructed view by view.

In: amounts of material on the grid of the scan, and coarsely around it (a scan sees the whole chest, an image only its
middle). Out: an image in HU. Beam hardening, photon starvation, and streaks from metal and motion come out by
themselves. Parallel beam, slice by slice; scatter, cone angle and afterglow are not modelled.

How loud the noise is follows from filtered back-projection alone (Kak & Slaney 1988, section 5.2), here for
density against water, with path noise sigma_L of each ray and A(f) of the kernel:

    var = pi^2 tau / M * mean over views(sigma_L^2) * integral (f A(f))^2 df,    sigma_L = sigma(-log N) / mu

    symbol   here         meaning
    M        views        over half a turn
    tau      pitch_mm     distance of the detectors
    N        quanta       that a detector counts, N_0 T(L) behind a water path L, plus electronic noise
    mu       slope        attenuation of water per mm behind L

Shapes: X Y Z voxel axes of the image, K materials, V views, D detectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from voxpair.phantom.kernels import Kernel, cutoff_per_mm, filtered_power, slice_blur, slice_noise_share
from voxpair.phantom.physics import REFERENCE_KV, REFERENCE_PATH_MM, Beam, beam
from voxpair.phantom.projection import Projector, ramp_filter, view_angles

_ELECTRONIC_SHARE = 0.1
"""Variance of the electronics at dose 1 in the middle of a patient, as a share of that of the quanta."""
_BODY_REACH_MM = (225.0, 150.0)
_CHEST_RADIUS_MM = 170.0
_VIEWS_AT_ONCE = 8
_MAP_VIEWS = 24


@dataclass(frozen=True)
class Surroundings:
    """A coarse grid around the scan: ``axes`` (mm), and where (X, Y) it lies ``outside`` of the scan's field.

    ``middle`` (X, Y) is the middle half of that field, where the heart is.
    """

    axes: list[np.ndarray]
    outside: np.ndarray
    middle: np.ndarray


def surroundings(axes: Sequence[np.ndarray], pixel_mm: float, slice_mm: float) -> Surroundings:
    """Return a grid of about ``pixel_mm`` that holds the whole chest; the scan's field is a whole number of its pixels.

    Args:
        axes: voxel centres of the scan.
        pixel_mm: wanted distance in the plane; never finer than the scan's.
        slice_mm: wanted distance along Z, idem.
    """
    coarse, inside, middle = [], [], []
    for axis, reach in zip(axes[:2], _BODY_REACH_MM):
        extent = len(axis) * (axis[1] - axis[0])
        count = max(1, int(extent // max(pixel_mm, axis[1] - axis[0])))
        step = extent / count
        beyond = max(1, int(np.ceil((reach - extent / 2) / step)))
        index = np.arange(-beyond, count + beyond)
        coarse.append((axis[0] + axis[-1]) / 2 + step * (index - (count - 1) / 2))
        inside.append((index >= 0) & (index < count))
        middle.append(np.abs(index - (count - 1) / 2) <= max(count / 4, 0.5))
    heights = axes[2]
    slices = max(2, min(len(heights), int(np.ceil((heights[-1] - heights[0]) / slice_mm)) + 1))
    coarse.append(np.linspace(heights[0], heights[-1], slices))
    return Surroundings(coarse, ~np.logical_and.outer(*inside), np.logical_and.outer(*middle))


@dataclass(frozen=True)
class Scanner:
    """Tube, detectors and filter for images on ``axes`` (mm).

    ``quanta``: N_0 per reading, on average over the views; infinite: no noise. ``electronic``: SD of the electronics,
    in quanta. ``current`` of the tube (V,) in so many even views, 1 on average.
    """

    axes: Sequence[np.ndarray]
    tube: Beam
    cutoff: float
    quanta: float = np.inf
    electronic: float = 0.0
    current: np.ndarray = field(default_factory=lambda: np.ones(_MAP_VIEWS))

    @classmethod
    def for_grid(cls, axes: Sequence[np.ndarray], kernel: Kernel, tube_voltage_kv: int) -> Scanner:
        """Return a scanner without noise."""
        return cls(axes, beam(tube_voltage_kv), cutoff_per_mm(kernel, _pixel_mm(axes)))

    def exposed(self, noise_hu: float, dose: float, density: np.ndarray, around: Surroundings) -> Scanner:
        """Return this scanner with as many quanta as the patient needs, and its electronics.

        At 120 kV, dose 1 and the standard kernel the noise in the middle of the image is ``noise_hu``, for thick and
        for thin patients: automatic exposure control. Another voltage sends the same number of quanta. Views along
        which the patient is thick get more of them, in inverse proportion to the root of what reaches the middle of
        the detectors, which is what makes best use of a dose (Gies et al. 1999).

        Args:
            noise_hu: wanted SD; 0: no noise.
            dose: quanta against that.
            density: against water on ``around``'s grid, (X, Y, Z).
            around: that grid.
        """
        if noise_hu == 0:
            return self
        tube = beam(REFERENCE_KV)
        left = float(tube.signal({"water": np.array([REFERENCE_PATH_MM])})[0])
        electronic = float(np.sqrt(_ELECTRONIC_SHARE * left))
        signal = self._chest_signal(density, around, tube)[0]
        middle = slice(signal.shape[1] // 2 - 4, signal.shape[1] // 2 + 4)
        current = signal[:, middle].mean(axis=(1, 2)) ** -0.5
        current /= current.mean()
        cutoff = cutoff_per_mm("standard", _pixel_mm(self.axes))
        trial = Scanner(self.axes, tube, cutoff, 1.0, electronic, current)
        needed = trial._variance(density, around)[around.middle].mean() / (noise_hu / 1000) ** 2
        return replace(self, quanta=needed * dose, electronic=electronic * np.sqrt(needed), current=current)

    @property
    def pitch_mm(self) -> float:
        return 0.8 * _pixel_mm(self.axes)

    @property
    def views(self) -> int:
        """M: enough that the chest's outline, two pixels apart in neighbouring views, casts no streaks on the image."""
        radius = 0.5 * np.hypot(*(len(axis) * (axis[1] - axis[0]) for axis in self.axes[:2]))
        return int(np.ceil(np.pi * (radius + _CHEST_RADIUS_MM) / (2 * _pixel_mm(self.axes))))

    @property
    def _noise_gain(self) -> float:
        """SD in the image (density against water) for path noise of 1 mm in every ray."""
        share = slice_noise_share(float(self.axes[2][1] - self.axes[2][0]))
        return float(np.pi * np.sqrt(self.pitch_mm / self.views * filtered_power(self.cutoff, self.pitch_mm) * share))

    def noise_hu(self, density: np.ndarray, around: Surroundings) -> np.ndarray:
        """Return the noise's SD in HU (X, Y, Z): louder where rays had farther to go.

        Args:
            density: against water on ``around``'s grid, (X, Y, Z).
            around: that grid.
        """
        variance = self._variance(density, around)
        for axis, (given, wanted) in enumerate(zip(around.axes, self.axes)):
            variance = np.moveaxis(np.tensordot(interpolation(given, wanted), variance, (1, axis)), 0, axis)
        return 1000 * np.sqrt(variance)

    def _variance(self, density: np.ndarray, around: Surroundings) -> np.ndarray:
        """Return the noise's variance on ``around``'s grid, of density against water."""
        signal, paths, projector = self._chest_signal(density, around, self.tube)
        counted = self.quanta * self.current[:, None, None] * signal
        slope = self.tube.slope("water", paths.ravel()).reshape(paths.shape)
        per_ray = (1 / counted + (self.electronic / counted) ** 2) / slope**2
        total = projector.back_project(per_ray.astype(np.float32), view_angles(_MAP_VIEWS)).reshape(density.shape)
        return self._noise_gain**2 * total / _MAP_VIEWS

    def _chest_signal(
        self, density: np.ndarray, around: Surroundings, tube: Beam
    ) -> tuple[np.ndarray, np.ndarray, Projector]:
        """Return signals and water paths (V, D, Z) of a few views on ``around``'s grid, and their projector."""
        projector = _projector(around.axes, self.axes, _pixel_mm(around.axes))
        columns = np.ascontiguousarray(density.reshape(-1, density.shape[2]))
        paths = projector.project(columns, view_angles(_MAP_VIEWS))
        return tube.signal({"water": paths}), paths, projector

    def image(
        self,
        beats: Sequence[np.ndarray],
        around: np.ndarray,
        grid: Surroundings,
        materials: Sequence[str],
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Return the scan (X, Y, Z) in HU.

        Args:
            beats: amounts of material (X, Y, K, Z) on the scan's grid at even times of the turn; one if nothing moves.
            around: amounts (X, Y, K, Z) on ``grid``, whatever is in the scan's own field is left out here.
            grid: the coarse grid of ``around``.
            materials: names of the K materials.
            rng: quanta and electronics.
        """
        pixels, slices = len(self.axes[0]) * len(self.axes[1]), len(self.axes[2])
        near = [beat.reshape(pixels, -1) for beat in beats]
        far = np.where(grid.outside[..., None, None], around, 0).reshape(grid.outside.size, -1)
        between = interpolation(grid.axes[2], self.axes[2]).T
        inner, outer = (_projector(axes, self.axes, self.pitch_mm) for axes in (self.axes, grid.axes))
        angles = view_angles(self.views)
        density = np.zeros((pixels, slices), np.float32)
        for first in range(0, self.views, _VIEWS_AT_ONCE):
            group = angles[first : first + _VIEWS_AT_ONCE]
            time = (first + len(group) / 2) / self.views * (len(near) - 1)
            paths = inner.project(_at(near, time), group).reshape(-1, len(materials), slices)
            paths += outer.project(far, group).reshape(-1, len(materials), len(between)) @ between
            signal = self.tube.signal({name: paths[:, k] for k, name in enumerate(materials)})
            sent = self.quanta * np.interp(group, view_angles(_MAP_VIEWS), self.current, period=np.pi)
            counted = self._counted(signal, np.repeat(sent, inner.detectors)[:, None], rng)
            water = self.tube.water_path(counted).reshape(len(group), inner.detectors, slices)
            density += inner.back_project(ramp_filter(water, self.pitch_mm, self.cutoff), group)
        density = (density * np.float32(np.pi / self.views)).reshape(len(self.axes[0]), len(self.axes[1]), slices)
        return 1000 * (slice_blur(density, float(self.axes[2][1] - self.axes[2][0])) - 1)

    def metal_hu(self, share: np.ndarray, material: str) -> np.ndarray:
        """Return what metal adds to an image (X, Y, Z) in HU, noise apart: itself, dark bands and streaks.

        It is projected and reconstructed alone, as seen behind as much water as lies before a heart.

        Args:
            share: of each voxel's volume, (X, Y, Z).
            material: titanium or steel.
        """
        crossed = np.flatnonzero(share.any(axis=(0, 1)))
        added = np.zeros_like(share)
        if not crossed.size:
            return added
        maps = np.ascontiguousarray(share[..., crossed].reshape(-1, crossed.size))
        projector, angles = _projector(self.axes, self.axes, self.pitch_mm), view_angles(self.views)
        total = np.zeros_like(maps)
        for first in range(0, self.views, _VIEWS_AT_ONCE):
            group = angles[first : first + _VIEWS_AT_ONCE]
            paths = projector.project(maps, group)
            behind = self.tube.signal({"water": np.full_like(paths, REFERENCE_PATH_MM), material: paths})
            read = (self.tube.water_path(behind) - REFERENCE_PATH_MM).astype(np.float32)
            total += projector.back_project(ramp_filter(read, self.pitch_mm, self.cutoff), group)
        added[..., crossed] = (total * np.float32(1000 * np.pi / self.views)).reshape(*share.shape[:2], -1)
        return slice_blur(added, float(self.axes[2][1] - self.axes[2][0]))

    def _counted(self, signal: np.ndarray, sent: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return ``signal`` as counted of ``sent`` quanta, Poisson and electronic noise, never less than one."""
        if np.isinf(self.quanta):
            return np.maximum(signal, 1e-12)
        counts = rng.poisson(sent * signal) + np.float32(self.electronic) * rng.standard_normal(
            signal.shape, np.float32
        )
        return (np.maximum(counts, 1) / sent).astype(np.float32)


def interpolation(given: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the matrix (wanted, given) of linear interpolation; beyond the ends the end values hold.

    >>> interpolation(np.array([0.0, 2.0]), np.array([-1.0, 0.5, 2.0])).tolist()
    [[1.0, 0.0], [0.75, 0.25], [0.0, 1.0]]
    """
    columns = [np.interp(wanted, given, row) for row in np.eye(len(given))]
    return np.stack(columns, 1).astype(np.float32)


def _projector(axes: Sequence[np.ndarray], image: Sequence[np.ndarray], pitch_mm: float) -> Projector:
    """Return the projector of pixels at ``axes`` about the isocentre, the middle of the ``image``."""
    x, y = (axis - (own[0] + own[-1]) / 2 for axis, own in zip(axes[:2], image[:2]))
    radius = max(_BODY_REACH_MM[0], 0.5 * np.hypot(*(len(a) * (a[1] - a[0]) for a in image[:2]))) + 4 * pitch_mm
    return Projector(x, y, pitch_mm, 2 * int(np.ceil(radius / pitch_mm)))


def _pixel_mm(axes: Sequence[np.ndarray]) -> float:
    return float(max(axis[1] - axis[0] for axis in axes[:2]))


def _at(beats: Sequence[np.ndarray], time: float) -> np.ndarray:
    """Return the amounts at ``time``, counted in steps between ``beats``."""
    if len(beats) == 1:
        return beats[0]
    before = min(int(time), len(beats) - 2)
    share = np.float32(time - before)
    return beats[before] + share * (beats[before + 1] - beats[before])

"""The noise of an image within a region of any shape: its SD and its power spectrum. Used by ``texture``.

Takes an image and the mask of one structure; noise is what a Gaussian high-pass leaves inside the structure, one voxel
away from its border:

    r = x - (g * M x) / (g * M)
    sd^2 = sum r^2 / sum (1 - 2 w_ii + sum_j w_ij^2)              unbiased for white noise, whatever the region
    power(f) = V / N |sum_x r(x) exp(-2 pi i f.x)|^2 / (1 - G(f))^2          for white noise of SD s it is s^2 V

    symbol   meaning
    M, N     the interior and its number of voxels
    g, G     Gaussian of SD 2 voxels of the finest axis, and its response at frequency f; w its weights over M
    V        volume of a voxel in mm^3, so power is in squared units times mm^3 and its integral is the variance

The power is averaged over shells of |f| up to Nyquist of the finest axis, over frequencies where G <= 0.5: slower
changes belong to the anatomy. The periodogram is that of Siewerdsen et al. 2002 (Med. Phys. 29:2655) over a region that
is no box: a small structure blurs its spectrum, and below about 500 voxels a white one falls by a quarter at the lowest
frequencies. Thick slices (see ``edges.thick_axes``) are not eroded, and hardly smoothed, along their normal.

Shapes: X Y Z volume axes, F frequencies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

from voxpair.evaluation.pairs.edges import bounding_box, thick_axes

FEWEST_FREE = 50
"""Interior voxels, less those that the high-pass uses up, below which noise is not judged."""
_HIGH_PASS_VOXELS = 2.0
_LARGEST_RESPONSE = 0.5
_SHELLS = 16


@dataclass(frozen=True)
class Noise:
    """Noise of one structure.

    Args:
        sd: in the image's units.
        frequency_per_mm, power: (F,) the radial spectrum, power in squared units times mm^3.
    """

    sd: float
    frequency_per_mm: np.ndarray
    power: np.ndarray

    @property
    def mean_frequency_per_mm(self) -> float | None:
        """Mean of the frequency, weighted with the power; None where there is no noise at all."""
        return float(np.average(self.frequency_per_mm, weights=self.power)) if self.power.any() else None


def find_noise(image: np.ndarray, mask: np.ndarray, spacing_mm: Sequence[float]) -> Noise | None:
    """Return the noise of ``image`` inside ``mask``, both (X, Y, Z); None where too few voxels are left to tell."""
    spacing = np.asarray(spacing_mm, float)
    if not np.any(mask):
        return None
    box = bounding_box(mask, margin=1)
    interior = _interior(np.asarray(mask[box], bool), spacing)
    voxels = int(interior.sum())
    if voxels <= FEWEST_FREE:
        return None
    kernels = [_gaussian(_HIGH_PASS_VOXELS * spacing.min() / step) for step in spacing]
    weight = np.where(interior, _filtered(interior.astype(float), kernels), 1.0)
    own = np.prod([kernel.max() for kernel in kernels]) / weight
    squares = _filtered(interior.astype(float), [kernel**2 for kernel in kernels]) / weight**2
    free = float((1 - 2 * own + squares)[interior].sum())
    if free < FEWEST_FREE:
        return None

    region = image[box]
    centred = np.where(interior, region - np.median(region[interior]), 0.0)  # exactly 0 where the image is flat
    residual = np.where(interior, centred - _filtered(centred, kernels) / weight, 0.0)
    periodogram, frequency, response = _spectrum(residual, kernels, spacing)
    known = response <= _LARGEST_RESPONSE
    power = spacing.prod() / voxels * periodogram[known] / (1 - response[known]) ** 2
    sd = float(np.sqrt((residual**2).sum() / free))
    return Noise(sd, *_shells(frequency[known], power, highest=0.5 / spacing.min()))


def _interior(mask: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Return the voxels whose neighbours, diagonal ones too, belong to the mask; the image's border is no border."""
    extent = np.where(thick_axes(spacing), 1, 3)
    return ndimage.binary_erosion(mask, np.ones(extent, bool), border_value=1)


def _gaussian(sd_voxels: float) -> np.ndarray:
    """Return a Gaussian kernel that sums to 1, cut at three SD."""
    radius = max(1, int(np.ceil(3 * sd_voxels)))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sd_voxels) ** 2)
    return kernel / kernel.sum()


def _filtered(array: np.ndarray, kernels: Sequence[np.ndarray]) -> np.ndarray:
    for axis, kernel in enumerate(kernels):
        array = ndimage.convolve1d(array, kernel, axis=axis, mode="constant")
    return array


def _spectrum(
    residual: np.ndarray, kernels: Sequence[np.ndarray], spacing: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return |F residual|^2, |f| per mm and the response of the Gaussian, all on one grid of frequencies."""
    shape = [fft.next_fast_len(max(size, 32)) for size in residual.shape]
    squared, response = np.zeros(shape), np.ones(shape)
    for axis, (size, kernel) in enumerate(zip(shape, kernels)):
        along = [-1 if other == axis else 1 for other in range(3)]
        cycles = fft.fftfreq(size)
        lags = np.arange(len(kernel)) - len(kernel) // 2
        squared += ((cycles / spacing[axis]) ** 2).reshape(along)
        response *= (np.cos(2 * np.pi * np.outer(cycles, lags)) @ kernel).reshape(along)
    return np.abs(fft.fftn(residual, shape)) ** 2, np.sqrt(squared), response


def _shells(frequency: np.ndarray, power: np.ndarray, highest: float) -> tuple[np.ndarray, np.ndarray]:
    """Average over shells of equal width up to ``highest``; a shell without a frequency is left out."""
    shell = (frequency / highest * _SHELLS).astype(int)
    within = shell < _SHELLS
    shell, frequency, power = shell[within], frequency[within], power[within]
    count = np.bincount(shell, minlength=_SHELLS)
    filled = count > 0
    totals = (np.bincount(shell, values, _SHELLS)[filled] for values in (frequency, power))
    frequencies, powers = (total / count[filled] for total in totals)
    return frequencies, powers

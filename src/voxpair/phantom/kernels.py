"""Reconstruction kernels: how sharp a scan is and what its noise looks like, two sides of one filter.

In: a kernel's name and voxel sizes. Out: the cut-off of the filter, the blur and the texture of noise that follow.

Filtered back-projection weighs the frequencies of each projection by f A(f). White noise in the projections then
has the power f A(f)^2 in the image, and a point the spectrum A(f). With A(f) = exp(-(f / f_c)^2 / 2):

    NPS(f) ~ f exp(-(f / f_c)^2), its peak at f_c / sqrt(2)    blur: a Gaussian of SD 1 / (2 pi f_c)

Source: Kijewski & Judy 1987 for the noise power of filtered back-projection; peaks of 0.20 (soft) to 0.30 (sharp) per
mm are this design's choice of usual values.

    symbol   here              meaning
    f        frequency         in-plane spatial frequency, cycles per mm
    f_c      cutoff            of the kernel's window

Shapes: X Y Z voxel axes; an axial slice is one (X, Y) plane.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.special import erf

Kernel = Literal["soft", "standard", "sharp"]

_PEAK_PER_MM = {"soft": 0.20, "standard": 0.25, "sharp": 0.30}
_PEAK_SHARE = 0.8
"""A grid coarser than the scanner's holds averages: the peak stays below this share of the grid's Nyquist frequency."""
_OVERLAP = 1.3
"""Slices are so many times thicker than their distance, as scanners reconstruct them, and at least 1 mm x this."""


def cutoff_per_mm(kernel: Kernel, pixel_mm: float) -> float:
    """Return f_c of ``kernel`` on pixels of ``pixel_mm``.

    >>> cutoff_per_mm("soft", 0.7) / 2**0.5
    0.2
    """
    return float(np.sqrt(2) * min(_PEAK_PER_MM[kernel], _PEAK_SHARE * 0.5 / pixel_mm))


def slice_blur(image: np.ndarray, step_mm: float) -> np.ndarray:
    """Return ``image`` (…, Z) blurred by the thickness of its slices, whose distance is ``step_mm``."""
    # mirrored about the last slice: repeating that slice would make its noise louder
    return gaussian_filter1d(image, _slice_sigma(step_mm), axis=-1, mode="mirror")


def slice_noise_share(step_mm: float) -> float:
    """Return the share of the variance of independent noise that :func:`slice_blur` leaves."""
    impulse = np.zeros(65)
    impulse[32] = 1
    return float((gaussian_filter1d(impulse, _slice_sigma(step_mm)) ** 2).sum())


def blur(image: np.ndarray, spacing_mm: np.ndarray, kernel: Kernel) -> np.ndarray:
    """Return ``image`` (X, Y, Z) as the scanner resolves it."""
    sigma_mm = 1 / (2 * np.pi * cutoff_per_mm(kernel, float(max(spacing_mm[:2]))))
    for axis in (0, 1):
        image = gaussian_filter1d(image, sigma_mm / float(spacing_mm[axis]), axis=axis, mode="nearest")
    return slice_blur(image, float(spacing_mm[2]))


def noise(shape: tuple[int, int, int], spacing_mm: np.ndarray, kernel: Kernel, rng: np.random.Generator) -> np.ndarray:
    """Return noise (X, Y, Z) float32 of SD 1 with the kernel's in-plane texture, correlated along Z.

    >>> made = noise((32, 32, 16), np.ones(3), "soft", np.random.default_rng(0))
    >>> made.shape, bool(0.9 < made.std() < 1.1)
    ((32, 32, 16), True)
    """
    white = rng.standard_normal(shape, np.float32)
    frequency = np.hypot(np.fft.fftfreq(shape[0], spacing_mm[0])[:, None], np.fft.fftfreq(shape[1], spacing_mm[1]))
    cutoff = cutoff_per_mm(kernel, float(max(spacing_mm[:2])))
    power = frequency * np.exp(-((frequency / cutoff) ** 2))
    gain = np.sqrt(power / power.mean()).astype(np.float32)[:, : shape[1] // 2 + 1]
    shaped = np.fft.irfft2(np.fft.rfft2(white, axes=(0, 1)) * gain[:, :, None], s=shape[:2], axes=(0, 1))
    return slice_blur(shaped, float(spacing_mm[2])) / np.float32(np.sqrt(slice_noise_share(float(spacing_mm[2]))))


def filtered_power(cutoff: float, pitch_mm: float) -> float:
    """Return the integral of (f A(f))^2 over the frequencies that detectors ``pitch_mm`` apart can hold.

    It is the variance of white noise of unit density behind the filter.
    """
    limit = 0.5 / pitch_mm / cutoff
    return float(cutoff**3 * (np.sqrt(np.pi) / 2 * erf(limit) - limit * np.exp(-(limit**2))))


def _slice_sigma(step_mm: float) -> float:
    return _OVERLAP * max(step_mm, 1.0) / 2.355 / step_mm

"""From tissues to a CT volume: partial volume, the scanner's blur, correlated noise, metal.

In: layers of signed distance and HU, painted over one another. Out: image in HU and label values.
This is the fast mode: image-domain models instead of projections.

Source: noise power of filtered back-projection is proportional to f at low frequencies and rolled off by the
kernel (Kijewski & Judy 1987): NPS(f) ~ f exp(-(f / f_c)^2), whose peak lies at f_c / sqrt(2).

    symbol   here              meaning
    f        frequency         in-plane spatial frequency, cycles per mm
    f_c      cutoff            set by the kernel's peak frequency, 0.20 (soft) to 0.30 (sharp) per mm

Shapes: X Y Z voxel axes; an axial slice is one (X, Y) plane.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from voxpair.core.labels import CARDIAC8
from voxpair.phantom.layers import Layer

Kernel = Literal["soft", "standard", "sharp"]

_PEAK_PER_MM = {"soft": 0.20, "standard": 0.25, "sharp": 0.30}
_BLUR_MM = {"soft": 0.8, "standard": 0.6, "sharp": 0.4}
_AIR_HU = -1000.0
SATURATION_HU = 3071.0
_PEAK_SHARE = 0.55
"""A grid coarser than the scanner's holds averaged noise: its peak stays below this share of Nyquist."""


def composite(layers: Sequence[Layer], spacing_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Paint ``layers`` in order and return (image HU float32, labels uint8), both (X, Y, Z).

    A voxel takes each layer in proportion to how much of it the surface encloses: 0.5 - distance / voxel size,
    exact for a plane along the grid. Its label is that of the last layer that encloses its centre.
    """
    shape = layers[0].distance.shape
    image, labels = np.full(shape, _AIR_HU, np.float32), np.zeros(shape, np.uint8)
    voxel_mm = float(np.prod(spacing_mm) ** (1 / 3))
    for layer in layers:
        near = layer.distance < 0.5 * voxel_mm
        share = np.minimum(0.5 - layer.distance[near] / voxel_mm, 1)
        level = layer.level_hu[near] if isinstance(layer.level_hu, np.ndarray) else layer.level_hu
        image[near] += share * (level - image[near])
        if layer.annotated:
            labels[layer.distance < 0] = CARDIAC8.value_of(layer.label) if layer.label else 0
    return image, labels


def blur(image: np.ndarray, spacing_mm: np.ndarray, kernel: Kernel) -> np.ndarray:
    """Return ``image`` as the scanner resolves it: a Gaussian point spread, wider along the table."""
    sigma_mm = _BLUR_MM[kernel] * np.array([1.0, 1.0, 1.3])
    return gaussian_filter(image, sigma_mm / spacing_mm, mode="nearest")


def noise(
    shape: tuple[int, int, int], spacing_mm: np.ndarray, kernel: Kernel, noise_hu: float, rng: np.random.Generator
) -> np.ndarray:
    """Return noise (X, Y, Z) in HU with SD ``noise_hu`` and the kernel's in-plane texture, correlated along Z.

    >>> made = noise((16, 16, 8), np.ones(3), "soft", 20.0, np.random.default_rng(0))
    >>> made.shape, round(float(made.std()), 3)
    ((16, 16, 8), 20.0)
    """
    white = rng.standard_normal(shape).astype(np.float32)
    if noise_hu == 0:
        return np.zeros(shape, np.float32)
    grids = [np.fft.fftfreq(shape[0], spacing_mm[0])[:, None], np.fft.rfftfreq(shape[1], spacing_mm[1])[None]]
    frequency = np.hypot(*grids)
    peak = min(_PEAK_PER_MM[kernel], _PEAK_SHARE * 0.5 / float(max(spacing_mm[:2])))
    cutoff = peak * np.sqrt(2)
    power = (frequency + 0.03 * cutoff) * np.exp(-((frequency / cutoff) ** 2))  # aliasing: not quite zero at f = 0
    spectrum = np.fft.rfft2(white, axes=(0, 1)) * np.sqrt(power)[:, :, None]
    shaped = np.fft.irfft2(spectrum, s=shape[:2], axes=(0, 1))
    thickness_mm = max(float(spacing_mm[2]), 1.0)
    shaped = gaussian_filter1d(shaped, thickness_mm / 2.355 / float(spacing_mm[2]) * 1.3, axis=2, mode="wrap")
    return (shaped * (noise_hu / shaped.std())).astype(np.float32)


def add_metal(image: np.ndarray, distance: np.ndarray, spacing_mm: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return ``image`` with metal that saturates, and in each slice bright and dark streaks that fan out from it.

    Args:
        image: (X, Y, Z) HU.
        distance: signed distance of the metal, (X, Y, Z) mm.
        spacing_mm: voxel size.
        rng: directions and strength of the streaks.
    """
    voxel_mm = float(np.prod(spacing_mm) ** (1 / 3))
    share = np.clip(0.5 - distance / voxel_mm, 0, 1)
    result = image.copy()
    rays = rng.uniform(0, 2 * np.pi, 6)
    strength = rng.uniform(150, 380, 6) * np.array([1, -1, 1, -1, 1, -1])
    x, y = np.meshgrid(*(np.arange(n) * s for n, s in zip(image.shape[:2], spacing_mm)), indexing="ij")
    for k in np.flatnonzero(share.any(axis=(0, 1))):
        weight = share[:, :, k]
        centre = [(weight * axis).sum() / weight.sum() for axis in (x, y)]
        right, front = x - centre[0], y - centre[1]
        far = np.hypot(right, front)
        angle = np.arctan2(front, right)
        fan = sum(s * np.exp(-((np.sin((angle - ray) / 2) / 0.06) ** 2)) for s, ray in zip(strength, rays))
        result[:, :, k] += fan * min(float(weight.sum()), 4) / 4 * np.exp(-far / 45) * (far > voxel_mm)
    return np.maximum(result, share * (SATURATION_HU + 1000) - 1000)

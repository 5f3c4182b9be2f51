"""An MRI-like image of the same anatomy: bright blood, uneven coils, ringing and Rician noise.

In: signals painted on a grid. Out: magnitudes in arbitrary units, blood near 500. Signals are relative values of a
balanced steady-state sequence, where blood and fat are bright and muscle is dark; they are choices of this design.
Flow, chemical shift and the slice profile are not modelled. Metal leaves a hole.

The receiver's noise is Gaussian in each of two channels, so the magnitude is Rician (Gudbjartsson & Patz 1995).

Shapes: X Y Z voxel axes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.fft import fft2, ifft2
from scipy.ndimage import gaussian_filter

from voxpair.phantom.contrast import smooth_texture
from voxpair.phantom.kernels import slice_blur
from voxpair.phantom.layers import Layer

_SIGNAL = {
    "air": 0.0,
    "lung": 0.06,
    "fat": 0.85,
    "soft": 0.36,
    "blood": 1.0,
    "cartilage": 0.3,
    "marrow": 0.6,
    "bone": 0.06,
    "calcium": 0.03,
}
_SCALE = 500.0
_SIGNAL_TO_NOISE = 22.0
"""Of blood, before the coils' unevenness."""
_MEASURED = 0.8
"""Share of the frequencies along each axis of a slice that is measured: the rest is zero, hence the ringing."""
_HOLE_MM = 4.0


def signal_of(layer: Layer) -> float | np.ndarray:
    """Return the signal of ``layer`` against blood; contrast medium in it plays no part."""
    return _SIGNAL[layer.tissue]


def magnetic_image(
    signal: np.ndarray, metal: np.ndarray | None, axes: Sequence[np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    """Return the image (X, Y, Z) float32 in arbitrary units.

    Args:
        signal: painted signals against blood, (X, Y, Z).
        metal: its share of each voxel, (X, Y, Z), or None.
        axes: voxel centres in mm.
        rng: coils and noise.
    """
    spacing_mm = [float(axis[1] - axis[0]) for axis in axes]
    if metal is not None:
        dark = gaussian_filter(metal, [_HOLE_MM / step for step in spacing_mm])
        signal = signal * np.exp(-40 * dark)
    signal = slice_blur(signal * coil_sensitivity(axes, rng), spacing_mm[2])
    frequencies = fft2(signal, axes=(0, 1))
    kept = [np.abs(np.fft.fftfreq(n)) <= 0.5 * _MEASURED for n in signal.shape[:2]]
    measured = ifft2(frequencies * np.logical_and.outer(*kept)[:, :, None], axes=(0, 1))
    noise = rng.standard_normal((2, *signal.shape), np.float32) / np.float32(_SIGNAL_TO_NOISE)
    return (_SCALE * np.hypot(measured.real + noise[0], measured.imag + noise[1])).astype(np.float32)


def coil_sensitivity(axes: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Return the bias field (X, Y, Z), about 1 on average: smooth, and stronger near the coil on the chest."""
    bumps = smooth_texture(axes, 110.0, rng)
    front = (axes[1] - axes[1].mean()) / 200
    field = np.exp(0.18 * bumps + 0.5 * front[:, None])
    return (field / field.mean()).astype(np.float32)

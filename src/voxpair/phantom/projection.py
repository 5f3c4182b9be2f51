"""Parallel projections of a stack of slices, and filtered back-projection.

In: maps on a pixel grid. Out: line integrals per view and detector; images from such integrals.
All slices and maps of a stack share one geometry, hence one sparse matrix per view serves them all.

Source: Kak & Slaney 1988, "Principles of Computerized Tomographic Imaging", section 3.3 (Eq. 61: the ramp);
a pixel's shadow is the box of its width convolved with that of its height (De Man & Basu 2004).

    symbol   here         meaning
    theta    angles       direction of a view; a detector sees the lines x cos(theta) + y sin(theta) = s
    tau      pitch_mm     distance of detectors, which is also their width
    f        frequency    along the detector, cycles per mm

Shapes: P pixels = X x Y, V views, D detectors, C columns (slices, or maps x slices).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft
from scipy.sparse import csr_array

_OFFSETS = 512
"""A pixel's shadow is computed for so many positions between two detectors; the next one is taken."""


@dataclass(frozen=True)
class Projector:
    """Pixels at ``x_mm`` (X,) and ``y_mm`` (Y,) before ``detectors`` bins of ``pitch_mm``; the isocentre is at 0."""

    x_mm: np.ndarray
    y_mm: np.ndarray
    pitch_mm: float
    detectors: int

    def project(self, maps: np.ndarray, angles: np.ndarray) -> np.ndarray:
        """Return the mean line integrals (V, D, C) over each detector's strip, value x mm, of ``maps`` (P, C)."""
        matrix = self._matrix([self._shadow(angle) for angle in angles])
        return (matrix.T @ maps).reshape(len(angles), self.detectors, -1)

    def back_project(self, projections: np.ndarray, angles: np.ndarray) -> np.ndarray:
        """Return the sum over views (P, C) of ``projections`` (V, D, C), interpolated at each pixel."""
        matrix = self._matrix([self._interpolation(angle) for angle in angles])
        return matrix @ projections.reshape(len(angles) * self.detectors, -1)

    def _position(self, angle: float) -> np.ndarray:
        """Return where each pixel's centre lies on the detector row (P,), in detectors."""
        s = np.add.outer(self.x_mm * np.cos(angle), self.y_mm * np.sin(angle)).ravel()
        return s / self.pitch_mm + (self.detectors - 1) / 2

    def _shadow(self, angle: float) -> tuple[np.ndarray, np.ndarray]:
        """Return per pixel the first detector it darkens (P,), and the mean path (P, K) in it and its neighbours."""
        sides = np.abs([np.cos(angle), np.sin(angle)]) * [self.x_mm[1] - self.x_mm[0], self.y_mm[1] - self.y_mm[0]]
        wide, narrow = np.maximum(np.sort(sides)[::-1] / self.pitch_mm, 1e-4)
        half = (wide + narrow) / 2
        reached = int(np.ceil(2 * half)) + 1
        start = self._position(angle) + 0.5 - half
        first = np.floor(start).astype(np.int32)
        offset = ((np.arange(_OFFSETS) + 0.5) / _OFFSETS)[:, None]
        edges = np.arange(reached + 1) - offset - half
        corners = np.array([half, (wide - narrow) / 2, (narrow - wide) / 2, -half])
        ramps = np.maximum(edges[..., None] + corners, 0) ** 2 / 2
        enclosed = (ramps @ [1, -1, -1, 1]) / (wide * narrow)
        area = (self.x_mm[1] - self.x_mm[0]) * (self.y_mm[1] - self.y_mm[0])
        table = (np.diff(enclosed, axis=1) * area / self.pitch_mm).astype(np.float32)
        return first, table[((start - first) * _OFFSETS).astype(np.int32)]

    def _interpolation(self, angle: float) -> tuple[np.ndarray, np.ndarray]:
        """Return per pixel the detector before it (P,) and the weights (P, 2) of this one and the next."""
        position = self._position(angle)
        first = np.floor(position).astype(np.int32)
        after = (position - first).astype(np.float32)
        return first, np.stack([1 - after, after], 1)

    def _matrix(self, views: list[tuple[np.ndarray, np.ndarray]]) -> csr_array:
        """Return (P, V D) from each view's first detector and weights; pixels beyond the row fall on its end."""
        indices, weights = [], []
        for view, (first, weight) in enumerate(views):
            reached = weight.shape[1]
            inside = np.clip(first, 0, self.detectors - reached) + np.int32(view * self.detectors)
            indices.append(inside[:, None] + np.arange(reached, dtype=np.int32))
            weights.append(weight)
        width = sum(weight.shape[1] for weight in weights)
        pixels = len(self.x_mm) * len(self.y_mm)
        starts = np.arange(0, (pixels + 1) * width, width, dtype=np.int32)
        parts = np.concatenate(weights, 1).ravel(), np.concatenate(indices, 1).ravel(), starts
        return csr_array(parts, shape=(pixels, len(views) * self.detectors))


def view_angles(views: int) -> np.ndarray:
    """Return ``views`` angles over half a turn, half a step away from the axes: no view runs along pixel borders."""
    return (np.arange(views) + 0.5) * np.pi / views


def ramp_filter(projections: np.ndarray, pitch_mm: float, cutoff: float) -> np.ndarray:
    """Return ``projections`` (V, D, C) filtered along D by f exp(-(f / cutoff)^2 / 2).

    The root of the share of white noise's power that interpolation between two detectors leaves on average,
    (2 + cos(2 pi f tau)) / 3, is given back beforehand.
    """
    detectors = projections.shape[1]
    length = next_fast_len(2 * detectors, real=True)
    lag = np.minimum(np.arange(length), length - np.arange(length))
    ramp = np.zeros(length)
    ramp[0] = 1 / (4 * pitch_mm)
    odd = lag % 2 == 1
    ramp[odd] = -1 / (np.pi**2 * lag[odd] ** 2 * pitch_mm)
    frequency = np.fft.rfftfreq(length, pitch_mm)
    left = (2 + np.cos(2 * np.pi * frequency * pitch_mm)) / 3
    response = rfft(ramp).real * np.exp(-0.5 * (frequency / cutoff) ** 2) / np.sqrt(left)
    spectrum = rfft(projections, length, axis=1) * response.astype(np.float32)[:, None]
    return irfft(spectrum, length, axis=1)[:, :detectors]

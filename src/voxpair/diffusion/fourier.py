"""The orthonormal Fourier transform over the last, spatial axes of a volume; powers stay what they were."""

from __future__ import annotations

import torch
from torch import Tensor


def to_spectrum(volume: Tensor, spatial: int) -> Tensor:
    """Return the complex spectrum of a real ``volume`` over its last ``spatial`` axes.

    >>> to_spectrum(torch.ones(1, 2, 2), 2)[0, 0, 0].real.item()
    2.0
    """
    return torch.fft.fftn(volume, dim=tuple(range(-spatial, 0)), norm="ortho")


def from_spectrum(spectrum: Tensor, spatial: int) -> Tensor:
    """Return the real part of the volume that has this ``spectrum``."""
    return torch.fft.ifftn(spectrum, dim=tuple(range(-spatial, 0)), norm="ortho").real

"""When to look at a path: time grids of rectified flow, and noise schedules of discrete diffusion.

Takes numbers of steps; gives tables in float64. Pure functions, no state.

Sources: DDPM, Ho et al. 2020; scaled-linear betas, Rombach et al. 2022; cosine schedule, Nichol and Dhariwal 2021,
Eq. 17; zero terminal SNR, Lin et al. 2023, Alg. 1; time shift, Esser et al. 2024, Eq. 23.

    symbol    here          meaning
    t         time          rectified flow: 0 = clean, 1 = noise; discrete diffusion: index 0 = clean, T = noise
    beta_t    betas         variance added between t - 1 and t
    abar_t    alpha_bars    fraction of the data's variance left at t; entry 0 is exactly 1
    r         shift         how much denser the grid is near noise
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from voxpair.core.errors import InputError

BetaSchedule = Literal["linear", "scaled_linear", "cosine"]
_FLOAT32_STEP = 2.0**-24  # multiples of it between 0 and 1 are exact in float32


def resolution_shift(voxels: int, scale: float = 1.4) -> float:
    """Return the time shift r = scale * (voxels / 32^3)^(1/3) of a volume or latent with so many voxels.

    A larger volume stays readable at higher noise, so its path is walked more carefully there.

    Args:
        voxels: product of the spatial axes, channels not counted.
        scale: r at 32^3; 1.4 is the value that MAISI's configuration names (Guo et al. 2024).

    >>> resolution_shift(64**3, scale=1.0)
    2.0
    """
    if voxels < 1 or scale <= 0:
        raise InputError(f"a time shift needs at least 1 voxel and a scale above 0, got {voxels} and {scale}")
    return scale * round((voxels / 32**3) ** (1 / 3), 9)


def shift_times(times: Tensor, shift: float) -> Tensor:
    """Return r t / (1 + (r - 1) t): maps [0, 1] onto itself, towards noise for ``shift`` > 1 (Esser Eq. 23)."""
    return shift * times / (1 + (shift - 1) * times)


def flow_times(steps: int, shift: float = 1.0, start: float = 1.0) -> Tensor:
    """Return ``steps + 1`` times falling from ``start``, above 0 and at most 1, to exactly 0.

    They are rounded to what float32 holds exactly, so that from 1 the step sizes sum to exactly 1 on any device.

    >>> flow_times(4).tolist()
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    if steps < 1 or shift <= 0:
        raise InputError(f"sampling needs at least 1 step and a shift above 0, got {steps} and {shift}")
    even = torch.linspace(
        float(shift_times(torch.tensor(start).double(), 1 / shift)), 0, steps + 1, dtype=torch.float64
    )
    times = shift_times(even, shift)
    return torch.round(times / _FLOAT32_STEP) * _FLOAT32_STEP


def make_betas(schedule: BetaSchedule, steps: int, start: float = 0.0015, end: float = 0.0195) -> Tensor:
    """Return beta_1 to beta_T, shape (T,).

    Args:
        schedule: "linear"; "scaled_linear", linear in the square root; "cosine", which has no start and end.
        steps: T, at least 2.
        start, end: beta_1 and beta_T, in (0, 1); the defaults are those of latent diffusion.
    """
    if steps < 2 or not 0 < start <= end < 1:
        raise InputError(f"a noise schedule needs 2+ steps and 0 < start <= end < 1, got {steps}, {start}, {end}")
    if schedule == "linear":
        return torch.linspace(start, end, steps, dtype=torch.float64)
    if schedule == "scaled_linear":
        return torch.linspace(math.sqrt(start), math.sqrt(end), steps, dtype=torch.float64) ** 2
    offset = 0.008
    angle = (torch.arange(steps + 1, dtype=torch.float64) / steps + offset) / (1 + offset) * math.pi / 2
    kept = torch.cos(angle) ** 2
    return (1 - kept[1:] / kept[:-1]).clamp(max=0.999)


def make_alpha_bars(betas: Tensor, zero_terminal_snr: bool = False) -> Tensor:
    """Return abar_0 to abar_T, shape (T + 1,): abar_0 = 1, then the running product of 1 - beta.

    Args:
        betas: beta_1 to beta_T.
        zero_terminal_snr: stretch the square roots so that abar_T is exactly 0 and abar_1 stays. Without it a volume's
            mean brightness shines through what the sampler takes for pure noise; the larger the volume, the more.
    """
    alpha_bars = torch.cumprod(1 - betas.double(), 0)
    if zero_terminal_snr:
        root = alpha_bars.sqrt()
        root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
        alpha_bars = root.square()
    return torch.cat([torch.ones(1, dtype=torch.float64), alpha_bars])


def spaced_times(total: int, steps: int) -> Tensor:
    """Return ``steps + 1`` whole times falling evenly from ``total`` to 0 (Lin et al. 2023, "trailing").

    >>> spaced_times(1000, 4).tolist()
    [1000, 750, 500, 250, 0]
    """
    if not 1 <= steps <= total:
        raise InputError(f"sampling needs 1 to {total} steps (the number of noise levels), got {steps}")
    return torch.linspace(total, 0, steps + 1, dtype=torch.float64).round().long()

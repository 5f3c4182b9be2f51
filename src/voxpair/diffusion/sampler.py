"""From noise to data: the walks that use a fitted network.

Takes a network, its process, noise and a falling time grid that ends at 0 (``process.times(steps)``); gives clean
volumes. Nothing is hidden: every walk is a function of its arguments, the stochastic one of its generators too.

    walk           process              evaluations per step    order    source
    euler          rectified flow       1                       1        Liu et al. 2022
    heun           rectified flow       2 (1 in the last)       2        Karras et al. 2022, Alg. 1 without noise
    wiener         any, with a prior    1                       2        ours; exact for Gaussian data
    ddpm           discrete diffusion   1                       -        Ho et al. 2020, Alg. 2
    ddim           discrete diffusion   1                       1        Song et al. 2021, Eq. 12 with eta = 0
    dpm_solver     discrete diffusion   1                       2        DPM-Solver++(2M), Lu et al. 2022b, Alg. 2

Shapes: B batch, C channels, * any spatial axes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from voxpair.core.errors import InputError
from voxpair.diffusion.gaussian import GaussianPrior
from voxpair.diffusion.process import DiscreteDiffusion, Process, RectifiedFlow

Network = Callable[[Tensor, Tensor], Tensor]  # (x_BC*, time_B) -> output_BC*
ConditionalNetwork = Callable[[Tensor, Tensor, Tensor], Tensor]  # (x_BC*, time_B, condition_BD) -> output_BC*

FLOW_SAMPLERS = ("euler", "heun")
DISCRETE_SAMPLERS = ("ddpm", "ddim", "dpm_solver")


def guide(network: ConditionalNetwork, condition: Tensor, null: Tensor, scale: float) -> Network:
    """Return a network of (x, time) whose output is f(null) + scale * (f(condition) - f(null)).

    Source: Ho and Salimans 2022 in the form of Han et al. 2023 (MedGen3D): 1 follows the condition as it was learnt,
    more exaggerates it. At 1, or where the condition is the null condition, the second evaluation is saved.

    Args:
        condition, null: (B, D).
        scale: at least 1.
    """
    if scale < 1:
        raise InputError(f"the guidance scale must be at least 1, got {scale}")
    if scale == 1 or torch.equal(condition, null):
        return lambda x, time: network(x, time, condition)

    def guided(x: Tensor, time: Tensor) -> Tensor:
        free = network(x, time, null)
        return free + scale * (network(x, time, condition) - free)

    return guided


def sample(
    name: str,
    network: Network,
    process: Process,
    noise: Tensor,
    steps: int,
    generators: Sequence[torch.Generator],
    prior: GaussianPrior | None = None,
) -> Tensor:
    """Walk with the sampler called ``name`` in ``steps`` steps; ``generators``, one per volume, serve "ddpm" alone.

    ``noise`` is of the first time of the grid: noise, or volumes corrupted to that time where the process starts there.
    """
    check_sampler(name, isinstance(process, RectifiedFlow), prior is not None)
    times = process.times(steps)
    if prior is not None and name == "wiener":
        return wiener(network, process, prior, noise, times)
    if name == "ddpm":
        return ddpm(network, process, noise, times, generators)
    return {"euler": euler, "heun": heun, "ddim": ddim, "dpm_solver": dpm_solver}[name](network, process, noise, times)


def check_sampler(name: str, flow: bool, prior: bool = False) -> None:
    """Raise InputError unless the sampler ``name`` walks this kind of process; ``prior``: whether there is one."""
    known = (FLOW_SAMPLERS if flow else DISCRETE_SAMPLERS) + (("wiener",) if prior else ())
    if name not in known:
        kind = "rectified flow" if flow else "discrete diffusion"
        raise InputError(f"no sampler {name!r} for {kind}; it has {', '.join(known)}")


@torch.inference_mode()
def euler(network: Network, process: RectifiedFlow, noise: Tensor, times: Tensor) -> Tensor:
    """Follow the velocity at the start of each step."""
    x = noise
    for now, after in itertools.pairwise(times):
        x = x + float(after - now) * network(x, _at(now, x))
    return x


@torch.inference_mode()
def heun(network: Network, process: RectifiedFlow, noise: Tensor, times: Tensor) -> Tensor:
    """Follow the mean of the velocities at both ends of each step; the last step, into clean data, is Euler's.

    At time 0 a network has seen no noise, and its velocity there is the least reliable of all.
    """
    x = noise
    for now, after in itertools.pairwise(times):
        step = float(after - now)
        velocity = network(x, _at(now, x))
        if after > 0:
            velocity = (velocity + network(x + step * velocity, _at(after, x))) / 2
        x = x + step * velocity
    return x


@torch.inference_mode()
def wiener(network: Network, process: Process, prior: GaussianPrior, noise: Tensor, times: Tensor) -> Tensor:
    """Integrate what the network adds to the best linear denoiser; the flow of the latter is known.

    The added part is extrapolated from the step before (Adams and Bashforth), in the angle of each frequency. Steps in
    time would shrink what they draw: 20 of Euler's lose an eighth of the variance of a Gaussian, and half of it at
    frequencies that are a tenth as strong as the noise.
    """
    x, before = noise, None
    for now, after in itertools.pairwise(times):
        here, there = (process.scales(_at(time, x), x) for time in (now, after))
        clean, _ = process.estimates(x, network(x, _at(now, x)), _at(now, x))
        added, width = prior.added(clean, x, *here), prior.angle(*here) - prior.angle(*there)
        change = added if before is None else added + (added - before[0]) * (width / before[1] / 2)
        x = prior.coloured(prior.whitened(x, *here) + width * change, *there)
        before = added, width
    return x


@torch.inference_mode()
def ddpm(
    network: Network, process: DiscreteDiffusion, noise: Tensor, times: Tensor, generators: Sequence[torch.Generator]
) -> Tensor:
    """Draw each step from the posterior q(x_s | x_t, x_0) at the network's estimate of x_0.

    With a grid of fewer than T steps it is the ancestral sampler of the coarser schedule (Nichol and Dhariwal 2021).

    Args:
        generators: one per volume of the batch, so that a volume's noise does not depend on its neighbours.
    """
    x = noise
    for now, after in itertools.pairwise(times):
        clean, _ = process.estimates(x, network(x, _at(now, x)), _at(now, x))
        bar_now, bar_after = float(process.alpha_bars[now]), float(process.alpha_bars[after])
        alpha = bar_now / bar_after
        x = (math.sqrt(bar_after) * (1 - alpha) * clean + math.sqrt(alpha) * (1 - bar_after) * x) / (1 - bar_now)
        if after > 0:
            deviation = math.sqrt((1 - alpha) * (1 - bar_after) / (1 - bar_now))
            x = x + deviation * torch.stack([_normal_like(volume, g) for volume, g in zip(x, generators, strict=True)])
    return x


@torch.inference_mode()
def ddim(network: Network, process: DiscreteDiffusion, noise: Tensor, times: Tensor) -> Tensor:
    """Move along the probability flow, keeping the estimates of data and noise over each step."""
    x = noise
    for now, after in itertools.pairwise(times):
        clean, epsilon = process.estimates(x, network(x, _at(now, x)), _at(now, x))
        bar = float(process.alpha_bars[after])
        x = math.sqrt(bar) * clean + math.sqrt(1 - bar) * epsilon
    return x


@torch.inference_mode()
def dpm_solver(network: Network, process: DiscreteDiffusion, noise: Tensor, times: Tensor) -> Tensor:
    """DPM-Solver++(2M): extrapolate the estimate of the data from the step before, in log-SNR.

    The first step has no step before it and the last ends at infinite SNR: both are of first order.
    """
    x, previous, last_width = noise, None, math.inf
    for now, after in itertools.pairwise(times):
        clean, _ = process.estimates(x, network(x, _at(now, x)), _at(now, x))
        width = _half_log_snr(process, after) - _half_log_snr(process, now)
        direction = clean
        if previous is not None and math.isfinite(width) and math.isfinite(last_width):
            direction = clean + (clean - previous) * (width / last_width / 2)
        bar_now, bar_after = float(process.alpha_bars[now]), float(process.alpha_bars[after])
        kept = math.sqrt((1 - bar_after) / (1 - bar_now))
        x = kept * x + (math.sqrt(bar_after) - kept * math.sqrt(bar_now)) * direction
        previous, last_width = clean, width
    return x


def _half_log_snr(process: DiscreteDiffusion, time: Tensor) -> float:
    bar = float(process.alpha_bars[time])
    return math.inf if bar == 1 else -math.inf if bar == 0 else 0.5 * math.log(bar / (1 - bar))


def _at(time: Tensor, x: Tensor) -> Tensor:
    """One time for every volume of the batch; whole times stay whole."""
    time = time.to(x.dtype) if time.is_floating_point() else time
    return time.to(x.device).expand(len(x))


def _normal_like(volume: Tensor, generator: torch.Generator) -> Tensor:
    """Normal noise drawn where the generator lives, so that every device gets the same numbers."""
    return torch.randn(volume.shape, generator=generator, device=generator.device, dtype=volume.dtype).to(volume.device)

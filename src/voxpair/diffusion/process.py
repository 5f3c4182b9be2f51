"""How data become noise, and what a network learns of it: rectified flow, and discrete diffusion (DDPM).

Both processes are small frozen objects with one interface, so that a task or a sampler need not know which it has:

    draw_times(count, generator, device)   training times, shape (B,)
    corrupt(clean, noise, time)            the noisy volume of training
    target(clean, noise, time)             what the network should give for it
    estimates(noisy, output, time)         (clean, noise) as the network's output implies them
    scales(time, like)                     (a, s) of x_t = a x_0 + s eps, shaped to multiply ``like``
    network_time(time)                     what the network's time embedding is fed, 0 to about 1000
    times(steps)                           falling grid for sampling, shape (steps + 1,), last entry 0

Sources: Liu et al. 2022, "Flow Straight and Fast", Eq. 1-2; Ho et al. 2020; v-prediction, Salimans and Ho 2022;
logit-normal times, Esser et al. 2024.

    symbol    here          meaning
    x_0       clean         data, about unit variance per channel
    eps       noise         standard normal, same shape
    x_t       noisy         flow: (1 - t) x_0 + t eps; discrete: sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps
    v         target        flow: d x_t / d t = eps - x_0; "v": sqrt(abar_t) eps - sqrt(1 - abar_t) x_0

Shapes: B batch, C channels, * any spatial axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from voxpair.core.errors import InputError
from voxpair.diffusion.schedule import flow_times, shift_times, spaced_times


@dataclass(frozen=True)
class RectifiedFlow:
    """Straight paths between data (time 0) and noise (time 1).

    Args:
        shift: above 1 spends more of training and sampling near noise; see ``schedule.resolution_shift``.
        density: how training times fall on [0, 1] before the shift.
        start: latest time that is learnt and walked from.

    >>> flow = RectifiedFlow()
    >>> clean, noise, time = torch.zeros(1, 1, 2), torch.ones(1, 1, 2), torch.tensor([0.25])
    >>> flow.corrupt(clean, noise, time), flow.target(clean, noise, time)
    (tensor([[[0.2500, 0.2500]]]), tensor([[[1., 1.]]]))
    """

    shift: float = 1.0
    density: Literal["uniform", "logit_normal"] = "uniform"
    start: float = 1.0

    def draw_times(
        self, count: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
    ) -> Tensor:
        if self.density == "uniform":
            times = torch.rand(count, generator=generator, device=device)
        else:
            times = torch.sigmoid(torch.randn(count, generator=generator, device=device))
        return shift_times(times * shift_times(torch.tensor(self.start), 1 / self.shift), self.shift)

    def corrupt(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        return torch.lerp(clean, noise, _like(time, clean))

    def target(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        return noise - clean

    def estimates(self, noisy: Tensor, output: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        signal, sigma = self.scales(time, noisy)
        return noisy - sigma * output, noisy + signal * output

    def scales(self, time: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        t = _like(time, like)
        return 1 - t, t

    def network_time(self, time: Tensor) -> Tensor:
        return 1000 * time

    def times(self, steps: int) -> Tensor:
        return flow_times(steps, self.shift, self.start)


@dataclass(frozen=True, eq=False)
class DiscreteDiffusion:
    """T noise levels; times are whole numbers, 0 = clean to T = noise.

    Args:
        alpha_bars: shape (T + 1,), falling from 1; see ``schedule.make_alpha_bars``.
        prediction: what the network gives: the noise ("epsilon") or the velocity ("v").
        bound: data lie within -bound and bound, and so do estimates of them; None for data without bounds. At high
            noise an error of the network's is magnified by 1 / a, 157 at DDPM's last level; Ho et al. clip at 1.

    Raises:
        InputError: epsilon prediction with abar_T = 0, where the noise says nothing about the data.
    """

    alpha_bars: Tensor
    prediction: Literal["epsilon", "v"] = "epsilon"
    bound: float | None = None

    def __post_init__(self) -> None:
        if float(self.alpha_bars[0]) != 1 or not bool((self.alpha_bars.diff() < 0).all()):
            raise InputError("alpha_bars must begin with 1 and fall strictly")
        if self.prediction == "epsilon" and float(self.alpha_bars[-1]) <= 0:
            raise InputError(
                "epsilon prediction cannot start from a schedule with zero terminal SNR: at the last time the clean "
                'volume does not follow from the noise. Use prediction "v", or switch zero_terminal_snr off.'
            )

    @property
    def levels(self) -> int:
        """T."""
        return len(self.alpha_bars) - 1

    def draw_times(
        self, count: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
    ) -> Tensor:
        return torch.randint(1, self.levels + 1, (count,), generator=generator, device=device)

    def corrupt(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        signal, sigma = self.scales(time, clean)
        return signal * clean + sigma * noise

    def target(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        if self.prediction == "epsilon":
            return noise
        signal, sigma = self.scales(time, clean)
        return signal * noise - sigma * clean

    def estimates(self, noisy: Tensor, output: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        signal, sigma = self.scales(time, noisy)
        if self.prediction == "epsilon":
            clean, noise = (noisy - sigma * output) / signal, output
        else:
            clean, noise = signal * noisy - sigma * output, sigma * noisy + signal * output
        if self.bound is None:
            return clean, noise
        clean = clean.clamp(-self.bound, self.bound)
        return clean, (noisy - signal * clean) / sigma

    def network_time(self, time: Tensor) -> Tensor:
        return time * (1000 / self.levels)

    def times(self, steps: int) -> Tensor:
        return spaced_times(self.levels, steps)

    def scales(self, time: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        tables = (self.alpha_bars.sqrt(), (1 - self.alpha_bars).sqrt())  # in float64, which not every device has
        signal, sigma = (_like(table.to(like.device, like.dtype)[time], like) for table in tables)
        return signal, sigma


Process = RectifiedFlow | DiscreteDiffusion


def _like(values_b: Tensor, volume: Tensor) -> Tensor:
    """Give (B,) the axes and the type of a volume (B, C, *)."""
    return values_b.to(volume.dtype).reshape(-1, *[1] * (volume.ndim - 1))

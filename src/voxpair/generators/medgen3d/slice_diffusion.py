"""Diffusion models of slices, one network per view: what the refiner and the DDPM baseline have in common.

Takes batches of real slices; gives networks that predict the noise, or velocity, of a slice, with its labels or not.

    eq.               here
    DDPM, Eq. 4       x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps      (in MedGen3D, section 2.1)
    DDPM, Eq. 14      loss = |eps - eps_theta(x_t, c, t)|^2
    Ho, Alg. 1        c is the null condition with probability p         (in MedGen3D, section 2.2)

    symbol    here         meaning
    x_0       clean        a slice, 2 image - 1, in [-1, 1]
    eps       noise        standard normal
    c         labels       class indices; HIDDEN everywhere is the null condition, and one-hot gives zeros for it
    p         drop         how often c is hidden

Sources: Ho et al. 2020 (DDPM); Ho and Salimans 2022 (classifier-free guidance); Wang et al. 2022 (SDM): labels enter
the decoder alone, by spatially-adaptive normalisation (SPADE, Park et al. 2019), and the noisy image the encoder.

Shapes: B slices, H W axes of a slice, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from monai.networks.nets import DiffusionModelUNet, SPADEDiffusionModelUNet
from pydantic import Field, model_validator
from torch import Tensor, nn

from voxpair.core.settings import Settings
from voxpair.diffusion.process import DiscreteDiffusion
from voxpair.diffusion.sampler import Network, ddim, ddpm, dpm_solver
from voxpair.diffusion.schedule import BetaSchedule, make_alpha_bars, make_betas
from voxpair.generators.medgen3d.views import AXES, View
from voxpair.training.loop import LoopSettings, Task
from voxpair.training.precision import autocast

HIDDEN = -1
"""The class index of the null condition."""

Walk = Literal["ddpm", "ddim", "dpm_solver"]


class SliceDiffusionSettings(Settings):
    """Noise levels, network and fit of the models of the three views, which are alike.

    The paper does not print its network. That of SDM, which it takes over: channels (256, 256, 512, 512, 1024, 1024),
    res_blocks 2, attention in the last three levels, head_channels 64, label_width 128, loop.learning_rate 1e-4.

    Attributes:
        levels, schedule, first_beta, last_beta: of the discrete diffusion; the defaults are DDPM's.
        prediction: what a network gives: the noise, as in the papers, or the velocity. Where slices are drawn from pure
            noise, a short fit of the noise leaves their brightness to chance.
        channels: width per level; each level after the first halves the slice.
        res_blocks: residual blocks per level.
        attention: which levels have self-attention, besides the middle, which always has it.
        head_channels: channels per attention head.
        label_width: channels between the labels and the scale and shift that they give (SPADE).
        loop: length and rates of the fit; a batch holds ``batch_size`` slices of each view.
    """

    levels: int = Field(1000, ge=2)
    schedule: BetaSchedule = "linear"
    first_beta: float = Field(1e-4, gt=0, lt=1)
    last_beta: float = Field(0.02, gt=0, lt=1)
    prediction: Literal["epsilon", "v"] = "epsilon"
    channels: tuple[int, ...] = (32, 64, 96)
    res_blocks: int = Field(1, ge=1)
    attention: tuple[bool, ...] = (False, False, True)
    head_channels: int = Field(16, ge=1)
    label_width: int = Field(32, ge=1)
    loop: LoopSettings = LoopSettings(
        updates=2000, batch_size=8, learning_rate=1e-3, weight_decay=1e-4, decay="cosine", warmup=100, ema=0.999
    )

    @model_validator(mode="after")
    def _check(self) -> SliceDiffusionSettings:
        if not self.channels or len(self.channels) != len(self.attention):
            raise ValueError(f"channels {self.channels} and attention {self.attention} must name the same levels")
        attended = [c for c, a in zip(self.channels, self.attention) if a] + [self.channels[-1]]
        if any(c % self.head_channels for c in attended):
            raise ValueError(
                f"widths with attention, {attended}, must be multiples of {self.head_channels} (head_channels)"
            )
        if self.first_beta > self.last_beta:
            raise ValueError(f"first_beta {self.first_beta} must not be above last_beta {self.last_beta}")
        return self

    @property
    def factor(self) -> int:
        """What the sides of a slice must be multiples of."""
        return 2 ** (len(self.channels) - 1)

    def process(self, last: int) -> DiscreteDiffusion:
        """Return the diffusion from clean slices to noise level ``last`` of ``levels``."""
        betas = make_betas(self.schedule, self.levels, self.first_beta, self.last_beta)
        return DiscreteDiffusion(make_alpha_bars(betas)[: last + 1], self.prediction, bound=1.0)


class ViewNetworks(nn.Module):
    """One 2D network per view, each blind to the others.

    Args:
        classes: K; 0 for networks that know of no labels.

    >>> networks = ViewNetworks(SliceDiffusionSettings(channels=(16, 16), attention=(False, False)), classes=3)
    >>> slices, labels = torch.randn(2, 1, 8, 4), torch.zeros(2, 1, 8, 4, dtype=torch.long)
    >>> networks("coronal", slices, torch.tensor([3, 999]), labels).shape
    torch.Size([2, 1, 8, 4])
    """

    def __init__(self, settings: SliceDiffusionSettings, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.precision = settings.loop.precision
        self.by_view = nn.ModuleDict({view: _make_network(settings, classes) for view in AXES})

    def forward(self, view: View, noisy: Tensor, network_time: Tensor, labels: Tensor) -> Tensor:
        """Return what the process asks for, (B, 1, H, W) float32 of slices of one view.

        Args:
            network_time: (B,), as ``process.network_time`` gives it.
            labels: (B, 1, H, W) class indices, or HIDDEN.
        """
        condition = (self._one_hot(labels),) if self.classes else ()
        with autocast(self.precision, noisy.device):
            return self.by_view[view](noisy, network_time.float(), *condition).float()

    def _one_hot(self, labels: Tensor) -> Tensor:
        return F.one_hot(labels[:, 0] + 1, self.classes + 1)[..., 1:].movedim(-1, 1).float()


class SliceDiffusionTask(Task):
    """Corrupt, predict, compare; every view is a player of its own.

    Args:
        drop: p, how often the labels of a slice are hidden.
    """

    def __init__(self, networks: ViewNetworks, process: DiscreteDiffusion, drop: float = 0.0) -> None:
        super().__init__()
        self.networks, self.process, self.drop = networks, process, drop

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {view: list(network.parameters()) for view, network in self.networks.by_view.items()}

    def forward(self, batch: Mapping[str, Any], player: str) -> dict[str, Tensor]:
        clean, labels = 2 * batch[f"{player}_image"] - 1, batch[f"{player}_labels"]
        hidden = torch.rand(len(clean), 1, 1, 1, device=clean.device) < self.drop
        time = self.process.draw_times(len(clean), device=clean.device)
        noise = torch.randn_like(clean)
        noisy = self.process.corrupt(clean, noise, time)  # DDPM Eq. 4
        output = self.networks(player, noisy, self.process.network_time(time), labels.masked_fill(hidden, HIDDEN))
        return {"loss": F.mse_loss(output, self.process.target(clean, noise, time))}  # DDPM Eq. 14


def levels_down(start: int, steps: int | None) -> Tensor:
    """Return noise levels from ``start`` to 0, in at most ``steps`` steps that shorten with the cube towards 0.

    A step from a level with much more noise than the texture of an image straight to 0 gives its mean, which has no
    texture. Of white texture with a standard deviation of 0.03, ten equal steps from level 100 keep 56 %, ten cubic
    ones 95 % ("dpm_solver", closed form).

    Args:
        steps: None for every level.

    >>> levels_down(100, 5).tolist(), levels_down(3, None).tolist(), levels_down(4, 4).tolist()
    ([100, 51, 22, 6, 1, 0], [3, 2, 1, 0], [4, 2, 0])
    """
    if steps is None:
        return torch.arange(start, -1, -1)
    places = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return (start * places**3).round().long().unique().flip(0)


def walk_down(
    name: Walk,
    network: Network,
    process: DiscreteDiffusion,
    noisy: Tensor,
    levels: Tensor,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """Denoise what is at ``levels[0]``; ``generators``, one per image of the batch, serve "ddpm" alone."""
    if name == "ddpm":
        return ddpm(network, process, noisy, levels, generators)
    return {"ddim": ddim, "dpm_solver": dpm_solver}[name](network, process, noisy, levels)


def _make_network(settings: SliceDiffusionSettings, classes: int) -> nn.Module:
    shared = {
        "spatial_dims": 2,
        "in_channels": 1,
        "out_channels": 1,
        "channels": settings.channels,
        "num_res_blocks": settings.res_blocks,
        "attention_levels": settings.attention,
        "num_head_channels": settings.head_channels,
        "norm_num_groups": max(1, math.gcd(64, *settings.channels) // 2),  # groups of two channels or more
        "use_flash_attention": True,
    }
    if not classes:
        return DiffusionModelUNet(**shared)
    return SPADEDiffusionModelUNet(**shared, label_nc=classes, spade_intermediate_channels=settings.label_width)

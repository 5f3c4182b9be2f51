"""The image-only baselines that MedGen3D is compared with: DDPMs of slices, and the 3D-alpha-WGAN.

Takes prepared cases, labels unseen; gives images without labels: slices of one view, or volumes of the fitted grid.

    baseline      fitted by              gives
    SliceDDPM     fit_slice_ddpm         slices of a view; three 2D models, blind to each other
    AlphaWGAN     fit_alpha_wgan         volumes from one network, with an encoder against mode collapse

    eq. of the alpha-WGAN                                                        symbols
    L_D = D(G(z)) + D(G(E(x))) - 2 D(x) + l1 P_D                                 x real volume, z random code
    L_C = C(E(x)) - C(z) + l1 P_C                                                G generator, E encoder
    L_GE = -D(G(z)) - D(G(E(x))) - C(E(x)) + l2 |x - G(E(x))|                    D critic of volumes, C of codes
    P = (|grad f(a x + (1 - a) y)| - 1)^2, a uniform in [0, 1]                   l1 penalty, l2 reconstruction

Sources: Ho et al. 2020 (DDPM); Kwon et al. 2019, "Generation of 3D Brain MRI Using Auto-Encoding Generative
Adversarial Networks" (the losses); Gulrajani et al. 2017, Eq. 3 (the penalty). As baselines: Han et al. 2023, Table 1.

Shapes: B cases, X Y Z volume axes, L length of a code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.networks.nets import Generator, Regressor
from pydantic import Field
from torch import Tensor, nn

from voxpair.cohorts.datasets import CaseBatches, PreparedCohort
from voxpair.core.errors import InputError, RunError
from voxpair.core.run import RunFolder, derive_seed
from voxpair.core.settings import Settings
from voxpair.generators.medgen3d.slice_diffusion import (
    HIDDEN,
    SliceDiffusionSettings,
    SliceDiffusionTask,
    ViewNetworks,
    Walk,
    levels_down,
    walk_down,
)
from voxpair.generators.medgen3d.views import AXES, SliceBatches, View
from voxpair.training.loop import LoopSettings, Task, fit


class SliceDDPMSettings(Settings):
    """How slices are learnt and drawn.

    Attributes:
        diffusion: noise levels, networks and fit; its ``label_width`` has no part here.
        sampler, steps: how a slice is drawn; see ``levels_down``. DDPM itself: "ddpm" and None, a step per level.
        slices_at_once: how many slices are drawn together, a matter of memory.
    """

    diffusion: SliceDiffusionSettings = SliceDiffusionSettings()
    sampler: Walk = "dpm_solver"
    steps: int | None = Field(40, ge=1)
    slices_at_once: int = Field(16, ge=1)


class SliceDDPM(nn.Module):
    """Three unconditional 2D models."""

    def __init__(self, settings: SliceDDPMSettings) -> None:
        super().__init__()
        self.settings = settings
        self.process = settings.diffusion.process(settings.diffusion.levels)
        self.networks = ViewNetworks(settings.diffusion, classes=0)

    @torch.inference_mode()
    def sample(self, view: View, size: tuple[int, int], count: int, seed: int) -> np.ndarray:
        """Return ``count`` slices (count, H, W) float32 in [0, 1]; slice *i* depends on (weights, seed, view, i) alone.

        Raises:
            InputError: no such view.
            RunError: the fit has diverged.
        """
        if view not in AXES:
            raise InputError(f"no view {view!r}; there are {', '.join(AXES)}")
        s, device = self.settings, next(self.parameters()).device
        height, width = (length + -length % s.diffusion.factor for length in size)
        levels = levels_down(s.diffusion.levels, s.steps)
        none = torch.full((1, 1, 1, 1), HIDDEN, device=device)

        def network(x: Tensor, time: Tensor) -> Tensor:
            return self.networks(view, x, self.process.network_time(time), none)

        parts = []
        for first in range(0, count, s.slices_at_once):  # full parts only: rounding may depend on a part's size
            seeds = (derive_seed("slice ddpm", seed, view, first + i) for i in range(s.slices_at_once))
            randoms = [torch.Generator().manual_seed(one) for one in seeds]
            noise = torch.stack([torch.randn(1, height, width, generator=random) for random in randoms]).to(device)
            parts.append(walk_down(s.sampler, network, self.process, noise, levels, randoms))
        return _to_image(torch.cat(parts)[:count, 0, : size[0], : size[1]], "DDPM of slices")


def fit_slice_ddpm(training: PreparedCohort, settings: SliceDDPMSettings, run: RunFolder) -> SliceDDPM:
    """Fit the three models on the slices of all cases, annotated or not."""
    torch.manual_seed(derive_seed("slice ddpm", run.seed))
    model, diffusion = SliceDDPM(settings), settings.diffusion
    batches = SliceBatches(
        training, diffusion.loop.batch_size, diffusion.factor, derive_seed("slice ddpm slices", run.seed)
    )
    fit(SliceDiffusionTask(model.networks, model.process), batches, diffusion.loop, run, "slice ddpm")
    return model.eval()


class AlphaWGANSettings(Settings):
    """Networks and fit of the 3D-alpha-WGAN.

    The authors: 64^3, code_length 1000, channels (64, 128, 256, 512), code_width 4096, Adam at 2e-4, batches of 4. Adam
    is AdamW without weight decay, which is the default here; each network has one step per update.

    Attributes:
        code_length: L.
        channels: width per level of critic and encoder, and of the generator backwards; each level halves the volume.
        code_width: hidden width of the critic of codes.
        penalty: l1, of the gradient penalty.
        reconstruction: l2, of the mean absolute error.
        loop: length and rates of the fit; in float32, since the penalty is a derivative of a derivative.
    """

    code_length: int = Field(128, ge=1)
    channels: tuple[int, ...] = Field((16, 32, 64, 128), min_length=1)
    code_width: int = Field(256, ge=1)
    penalty: float = Field(10.0, gt=0)
    reconstruction: float = Field(10.0, ge=0)
    loop: LoopSettings = LoopSettings(
        updates=4000, batch_size=4, learning_rate=2e-4, weight_decay=0, clip=None, ema=0.999, precision="32-true"
    )

    @property
    def factor(self) -> int:
        return 2 ** len(self.channels)


class AlphaWGAN(nn.Module):
    """Generator and encoder; the two critics belong to the fit (:class:`AlphaWGANTask`).

    Args:
        shape: (X, Y, Z) of its volumes, any; inside, each side is the next multiple of ``settings.factor``.
    """

    def __init__(self, settings: AlphaWGANSettings, shape: Sequence[int]) -> None:
        super().__init__()
        self.settings, self.shape = settings, tuple(shape)
        self.padding = [(0, -length % settings.factor) for length in self.shape]
        start = [(length + extra) // settings.factor for length, (_, extra) in zip(self.shape, self.padding)]
        strides = (2,) * len(settings.channels)
        self.generator = Generator(
            (settings.code_length,),
            (settings.channels[-1], *start),
            (*settings.channels[-2::-1], 1),
            strides,
            num_res_units=0,
            act="RELU",
            norm="BATCH",
        )
        self.encoder = _make_regressor(settings, self.inner_shape, settings.code_length, "BATCH")

    @property
    def inner_shape(self) -> tuple[int, ...]:
        return tuple(length + extra for length, (_, extra) in zip(self.shape, self.padding))

    def decode(self, codes: Tensor) -> Tensor:
        """Return volumes (B, 1, *inner_shape) in [-1, 1] for codes (B, L)."""
        return torch.tanh(self.generator(codes))

    def pad(self, image: Tensor) -> Tensor:
        """Return images (B, 1, X, Y, Z) in [0, 1] as (B, 1, *inner_shape) in [-1, 1]."""
        return F.pad(2 * image - 1, [side for pair in reversed(self.padding) for side in pair], mode="replicate")

    @torch.inference_mode()
    def sample(self, seed: int) -> np.ndarray:
        """Return a volume (X, Y, Z) float32 in [0, 1]; it depends on weights and seed alone.

        Raises:
            RunError: the fit has diverged.
        """
        random = torch.Generator().manual_seed(derive_seed("alpha wgan", seed))
        code = torch.randn(1, self.settings.code_length, generator=random)
        volume = self.decode(code.to(next(self.parameters()).device))
        x, y, z = self.shape
        return _to_image(volume[0, 0, :x, :y, :z], "3D-alpha-WGAN")


class AlphaWGANTask(Task):
    """The players: generator with encoder, the critic of volumes, the critic of codes."""

    def __init__(self, model: AlphaWGAN) -> None:
        super().__init__()
        s = model.settings
        self.model = model
        self.critic = _make_regressor(s, model.inner_shape, 1, None)  # no batch statistics: the penalty is per volume
        self.code_critic = nn.Sequential(
            nn.Linear(s.code_length, s.code_width),
            nn.LeakyReLU(0.2),
            nn.Linear(s.code_width, s.code_width),
            nn.LeakyReLU(0.2),
            nn.Linear(s.code_width, 1),
        )

    def players(self) -> dict[str, list[nn.Parameter]]:
        networks = {"model": self.model, "critic": self.critic, "code_critic": self.code_critic}
        return {name: list(network.parameters()) for name, network in networks.items()}

    def forward(self, batch: Mapping[str, Any], player: str) -> dict[str, Tensor]:
        s, real = self.model.settings, self.model.pad(batch["image"])
        random_code = torch.randn(len(real), s.code_length, device=real.device)
        with torch.set_grad_enabled(player == "model" and torch.is_grad_enabled()):
            code = self.model.encoder(real)
            drawn, rebuilt = self.model.decode(random_code), self.model.decode(code)
        if player == "critic":  # L_D
            gap = self.critic(drawn).mean() + self.critic(rebuilt).mean() - 2 * self.critic(real).mean()
            penalty = gradient_penalty(self.critic, real, drawn) + gradient_penalty(self.critic, real, rebuilt)
            return {"loss": gap + s.penalty * penalty, "gap": -gap}
        if player == "code_critic":  # L_C
            gap = self.code_critic(code).mean() - self.code_critic(random_code).mean()
            penalty = gradient_penalty(self.code_critic, random_code, code)
            return {"loss": gap + s.penalty * penalty, "code_gap": -gap}
        error = F.l1_loss(rebuilt, real)  # L_GE
        fooled = self.critic(drawn).mean() + self.critic(rebuilt).mean() + self.code_critic(code).mean()
        return {"loss": s.reconstruction * error - fooled, "error": error}


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
    """Return the mean of (|gradient| - 1)^2 at random points between ``real`` and ``fake``, both (B, ...)."""
    share = torch.rand(len(real), *[1] * (real.ndim - 1), device=real.device)
    between = torch.lerp(fake.detach(), real.detach(), share).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


def fit_alpha_wgan(training: PreparedCohort, settings: AlphaWGANSettings, run: RunFolder) -> AlphaWGAN:
    """Fit on the volumes of all cases, annotated or not."""
    torch.manual_seed(derive_seed("alpha wgan", run.seed))
    model = make_alpha_wgan(settings, training[0].image.shape)
    batches = CaseBatches(training, settings.loop.batch_size, derive_seed("alpha wgan volumes", run.seed))
    fit(AlphaWGANTask(model), batches, settings.loop, run, "alpha wgan")
    return model.eval()


def make_alpha_wgan(settings: AlphaWGANSettings, shape: Sequence[int]) -> AlphaWGAN:
    """Return a model without weights for volumes of ``shape``, for ``fit`` or ``load``."""
    return AlphaWGAN(settings, shape)


def _make_regressor(settings: AlphaWGANSettings, shape: Sequence[int], outputs: int, norm: str | None) -> Regressor:
    return Regressor(
        (1, *shape),
        (outputs,),
        settings.channels,
        (2,) * len(settings.channels),
        num_res_units=0,
        act=("LEAKYRELU", {"negative_slope": 0.2}),
        norm=norm,
    )


def _to_image(made: Tensor, what: str) -> np.ndarray:
    if not torch.isfinite(made).all():
        raise RunError(f"an image of the {what} holds NaN or infinite values: its fit has diverged")
    return ((made + 1) / 2).clamp(0, 1).cpu().numpy()

"""The denoiser: a U-Net on latents that knows the time and the condition, and its fit.

Takes normalised latents with their conditions; gives a network for ``diffusion.sampler``.

Source: papers: unconditional DDPM, L2 (Ikuta et al. 2024, Hu et al. 2024; they give no network, schedule or sampler,
so the "paper" preset takes those of latent diffusion, Rombach et al. 2022, as MONAI has them). Ours: rectified flow
(as MAISI), conditions by classifier-free guidance, augmentation told to the network (Karras et al. 2022).

Shapes: B batch, L latent channels, x y z latent axes, D length of the condition, V of the augmentation's vector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from monai.networks.nets import DiffusionModelUNet
from pydantic import Field, model_validator
from torch import Tensor, nn

from voxpair.core.run import RunFolder, derive_seed
from voxpair.core.settings import Settings
from voxpair.diffusion.gaussian import GaussianPrior
from voxpair.diffusion.population import Population
from voxpair.diffusion.process import DiscreteDiffusion, Process, RectifiedFlow
from voxpair.diffusion.schedule import BetaSchedule, make_alpha_bars, make_betas, resolution_shift
from voxpair.generators.joint_ldm.autoencoder import norm_groups
from voxpair.generators.joint_ldm.conditions import Conditions
from voxpair.generators.joint_ldm.latents import LatentBatches
from voxpair.training.loop import LoopSettings, Task, fit

POPULATION_CASES = 256
"""At most so many training cases are held in memory for their principal components."""


class DiffusionSettings(Settings):
    """Process, network and fit of the latent diffusion model.

    Attributes:
        formulation: "flow" (rectified flow), or "epsilon" or "v" prediction of a discrete diffusion.
        density: training times of "flow".
        trust: None: the network gives the process's target itself. A number: it gives what the best linear denoiser
            leaves to it, and this is n in ``diffusion.gaussian``.
        start: how much of the way from data to noise is learnt and walked: of the times of "flow", of the levels of the
            others. A walk begins there at a noised draw of ``diffusion.population``; 1 begins at noise.
        components: principal components of the training latents that this draw has, besides their mean and spectrum.
        shift_scale: "flow": time shift at a latent of 32^3; it grows with the cube root of the latent's size.
        levels, schedule, zero_terminal_snr: of the discrete diffusion; "epsilon" cannot have zero terminal SNR.
        patch: side of the cubes of latent voxels that the network sees as one voxel with more channels (Peebles and
            Xie 2023, DiT); 2 makes a step about five times cheaper.
        channels: width per level; each level after the first halves the latent.
        res_blocks: residual blocks per level.
        attention: which levels have self-attention, besides the middle, which always has it.
        head_channels: channels per attention head.
        loss: "l1" or "l2" (the papers').
        loop: length and rates of the fit.
    """

    formulation: Literal["flow", "epsilon", "v"] = "flow"
    density: Literal["uniform", "logit_normal"] = "uniform"
    trust: float | None = Field(4.0, ge=0)
    start: float = Field(0.95, gt=0, le=1)
    components: int = Field(16, ge=0)
    shift_scale: float = Field(3.0, gt=0)
    levels: int = Field(1000, ge=2)
    schedule: BetaSchedule = "scaled_linear"
    zero_terminal_snr: bool = False
    patch: int = Field(1, ge=1)
    channels: tuple[int, ...] = (32, 64, 96)
    res_blocks: int = Field(1, ge=1)
    attention: tuple[bool, ...] = (False, False, True)
    head_channels: int = Field(16, ge=1)
    loss: Literal["l1", "l2"] = "l2"
    loop: LoopSettings = LoopSettings(
        updates=4000, batch_size=8, learning_rate=1e-3, weight_decay=1e-4, decay="cosine", warmup=100, ema=0.999
    )

    @model_validator(mode="after")
    def _check(self) -> DiffusionSettings:
        if not self.channels or len(self.channels) != len(self.attention):
            raise ValueError(f"channels {self.channels} and attention {self.attention} must name the same levels")
        attended = [c for c, a in zip(self.channels, self.attention) if a] + [self.channels[-1]]
        if any(c % self.head_channels for c in attended):
            raise ValueError(
                f"widths with attention, {attended}, must be multiples of {self.head_channels} (head_channels)"
            )
        if self.trust is None and self.start < 1:
            raise ValueError(
                f"a walk that begins at {self.start} has the best linear denoiser before it: set trust, or start to 1"
            )
        if self.formulation == "epsilon" and self.zero_terminal_snr:
            raise ValueError('epsilon prediction cannot have zero terminal SNR: use formulation "v" or "flow"')
        return self

    @property
    def downsampling(self) -> int:
        """By how much the U-Net shrinks a latent: its sides must be multiples of this."""
        return self.patch * 2 ** (len(self.channels) - 1)

    def process(self, latent_shape: tuple[int, ...]) -> Process:
        """Return the diffusion process for latents with these spatial axes."""
        if self.formulation == "flow":
            voxels = int(torch.tensor(latent_shape).prod())
            return RectifiedFlow(resolution_shift(voxels, self.shift_scale), self.density, self.start)
        alpha_bars = make_alpha_bars(make_betas(self.schedule, self.levels), self.zero_terminal_snr)
        used = max(1, round(self.start * self.levels))
        return DiscreteDiffusion(alpha_bars[: used + 1], self.formulation)


class Denoiser(nn.Module):
    """MONAI's diffusion U-Net with a condition vector of any length, also none.

    Args:
        latent_shape: (L, x, y, z).
        condition_length: D + V.

    >>> settings = DiffusionSettings(channels=(8, 8), attention=(False, False), head_channels=8)
    >>> network = Denoiser(settings, (4, 4, 4, 4), condition_length=3)
    >>> network(torch.randn(2, 4, 4, 4, 4), torch.tensor([0.0, 1.0]), torch.zeros(2, 3)).shape
    torch.Size([2, 4, 4, 4, 4])
    """

    def __init__(self, settings: DiffusionSettings, latent_shape: tuple[int, ...], condition_length: int) -> None:
        super().__init__()
        self.patch = settings.patch
        self.process = settings.process(latent_shape[1:])
        self.prior = None if settings.trust is None else GaussianPrior(latent_shape, settings.trust)
        self.population = (
            Population(latent_shape, settings.components, condition_length) if settings.start < 1 else None
        )
        channels = latent_shape[0] * settings.patch**3
        self.unet = DiffusionModelUNet(
            spatial_dims=3,
            in_channels=channels if self.prior is None else 2 * channels,
            out_channels=channels,
            channels=settings.channels,
            num_res_blocks=settings.res_blocks,
            attention_levels=settings.attention,
            num_head_channels=settings.head_channels,
            norm_num_groups=norm_groups(settings.channels),
            num_class_embeds=1 if condition_length else None,
            use_flash_attention=True,
        )
        if condition_length:
            # MONAI adds the embedding of one class index to the time embedding. We need that place for a vector:
            # num_class_embeds opens it, and this network takes the table's seat.
            width = 4 * settings.channels[0]
            self.unet.class_embedding = nn.Sequential(
                nn.Linear(condition_length, width), nn.SiLU(), nn.Linear(width, width)
            )
        self.conditional = condition_length > 0

    def forward(self, latent: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """Return the process's target, (B, L, x, y, z) float32.

        Args:
            latent: (B, L, x, y, z) float32, noisy.
            time: (B,), of ``process``.
            condition: (B, D + V); zeros for "open" and "not moved".
        """
        if self.prior is None:
            return self._in_cubes([latent], time, condition)
        signal, sigma = self.process.scales(time, latent)
        scaled = latent / (signal**2 + sigma**2).sqrt()
        remainder = self._in_cubes([scaled, self.prior.linear(latent, signal, sigma)], time, condition)
        return self.process.target(*self.prior.estimates(latent, remainder, signal, sigma), time)

    def begin(self, noise: Tensor, condition: Tensor, is_asked: Tensor, generator: torch.Generator) -> Tensor:
        """Return where a walk begins, (1, L, x, y, z): at ``noise``, or at a noised draw of the population.

        Args:
            noise: (1, L, x, y, z).
            condition: (D + V,).
            is_asked: (D + V,) bool, which entries are not open.
            generator: of this case, on the processor.
        """
        if self.population is None:
            return noise
        drawn = self.population.draw(condition, is_asked, generator)
        return self.process.corrupt(drawn, noise, self.process.times(1)[:1].to(noise.device))

    def _in_cubes(self, inputs: list[Tensor], time: Tensor, condition: Tensor) -> Tensor:
        p = self.patch
        cubes = rearrange(torch.cat(inputs, 1), "b c (x i) (y j) (z k) -> b (c i j k) x y z", i=p, j=p, k=p)
        network_time = self.process.network_time(time).float()
        output = self.unet(cubes, network_time, class_labels=condition if self.conditional else None).float()
        return rearrange(output, "b (c i j k) x y z -> b c (x i) (y j) (z k)", i=p, j=p, k=p)


class DenoiserTask(Task):
    """Corrupt, predict, compare; entries of the condition are hidden at random.

    Args:
        validation: a batch of held-out latents, at unchanging times and noise: ``score`` is minus their loss.
    """

    def __init__(
        self,
        network: Denoiser,
        settings: DiffusionSettings,
        hide: Callable[[Tensor], Tensor],
        validation: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.network, self.settings, self.hide, self.validation = network, settings, hide, validation
        self.process = network.process

    def forward(self, batch: Mapping[str, Any], player: str) -> dict[str, Tensor]:
        clean = batch["latent"]
        time = self.process.draw_times(len(clean), device=clean.device)
        condition = torch.cat([self.hide(batch["condition"]), batch["augmentation"]], 1)
        return {"loss": self._loss(clean, torch.randn_like(clean), time, condition)}

    def validate(self) -> dict[str, float]:
        if self.validation is None:
            return {}
        device = next(self.parameters()).device
        clean = self.validation["latent"]
        condition = torch.cat([self.validation["condition"], self.validation["augmentation"]], 1).to(device)
        losses = []
        for part in range(4):
            random = torch.Generator().manual_seed(derive_seed("validation noise", part))
            time = self.process.draw_times(len(clean), random)
            noise = torch.randn(clean.shape, generator=random)
            losses.append(float(self._loss(clean.to(device), noise.to(device), time.to(device), condition)))
        loss = sum(losses) / len(losses)
        return {"validation_loss": loss, "score": -loss}

    def _loss(self, clean: Tensor, noise: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        output = self.network(self.process.corrupt(clean, noise, time), time, condition)
        distance = F.l1_loss if self.settings.loss == "l1" else F.mse_loss
        return distance(output, self.process.target(clean, noise, time))


def fit_denoiser(
    batches: LatentBatches,
    validation: Mapping[str, Any] | None,
    conditions: Conditions,
    drop: float,
    settings: DiffusionSettings,
    run: RunFolder,
) -> Denoiser:
    """Fit a denoiser on latents; ``drop`` is the probability of hiding entries of the condition."""
    example = batches.rows([(0, 0)])
    torch.manual_seed(derive_seed("denoiser", run.seed))
    shape = tuple(example["latent"].shape[1:])
    network = Denoiser(settings, shape, conditions.length + example["augmentation"].shape[1])
    if network.prior is not None:
        network.prior.measure(batches.volumes())
    if network.population is not None:
        volumes, known = batches.unmoved(POPULATION_CASES)
        network.population.measure(volumes, known)

    def hide(vectors: Tensor) -> Tensor:
        return conditions.hide(vectors, drop)

    task = DenoiserTask(network, settings, hide, validation)
    fit(task, batches, settings.loop, run, "diffusion")
    return network.eval()

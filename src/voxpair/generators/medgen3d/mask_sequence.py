"""MC-DPM: label volumes as sequences of slices, drawn window by window outward from a random place.

Takes prepared training cases with labels; gives a :class:`MaskSequence` that draws class indices (X, Y, depth).

A window is m consecutive axial slices, which are channels of one 2D U-Net. Its first n slices are known (forward), or
its last n (backward), or none (unconditional). One window drawn from noise alone is extended both ways. The last window
of either way is anchored at the volume's end and overlaps by more than n slices: n of them stay known, as in the fit,
and those beyond are drawn again, so that no seam is left inside.

Source: Han et al. 2023 (MedGen3D), section 3.1; equation numbers are theirs. Block-wise extension with a mask of what
is known goes back to MCVD (Voleti et al. 2022).

    symbol     here             meaning
    m, n       window, known    slices of a window, and how many of them are known
    z~         position         relative place of the window in its volume, here first and end: z / D, (z + m) / D
    X^C, X^P   clean, noisy     codes of the known slices, noised codes of the others
    p^C        modes            probabilities of forward, backward, unconditional
    s          guidance         scale of classifier-free guidance

Departures: the label code is one-hot (the paper: one channel with a value per structure). The network gives class
probabilities and is judged by their cross-entropy; the noise follows from them. The best answer is the same, the mean
of what may have been there, but a bounded one is learnt in a fraction of the updates. z~ names the end beside the first
slice, without which a network cannot tell volumes of different depth apart. Guidance shows the known slices to the
network noised like the others, with their indicators down; the paper leaves it open.

The walk begins at the height where the training volumes have most structures; the paper's begins anywhere. A first
window above or below the anatomy is rightly empty, and the rest may then stay empty: that labels begin behind empty
slices is seen once in a training volume, and above the height where they have begun in all of them never.

Shapes: B batch, C channels of a slice's label code, K classes, X Y Z volume axes, x y in-plane axes of the network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from monai.networks.nets import DiffusionModelUNet
from monai.networks.nets.diffusion_model_unet import get_timestep_embedding
from pydantic import Field, model_validator
from torch import Tensor, nn

from voxpair.cohorts.datasets import PreparedCohort
from voxpair.cohorts.geometry import Shape, resample_classes
from voxpair.core.errors import InputError, RunError
from voxpair.core.run import RunFolder, derive_seed
from voxpair.core.settings import Settings
from voxpair.diffusion.process import DiscreteDiffusion
from voxpair.diffusion.sampler import guide, sample
from voxpair.diffusion.schedule import BetaSchedule, make_alpha_bars, make_betas
from voxpair.generators.medgen3d.windows import Window, WindowBatches, plan_windows, relative_position
from voxpair.training.loop import LoopSettings, Task, fit
from voxpair.training.precision import autocast

EMBEDDING = 32  # numbers that stand for a time or a place before the network's own layers
SCALE = 1000  # of network_time; places from 0 to 1 are spread like it, since the sinusoids are made for times


class MaskSequenceSettings(Settings):
    """Windows, label code, process, network and fit of the mask sequence generator.

    The paper: window 6, label_code "scalar", slice_size (128, 128), prediction "epsilon", schedule "linear"; it leaves
    ``known`` and ``modes`` open.

    Attributes:
        window: slices drawn at a time.
        known: slices of them that are given when a sequence is extended.
        modes: probabilities of forward, backward and unconditional windows in the fit.
        label_code: "one_hot": a channel per class; "scalar": one channel with a value per class, in which a blurred
            border between two classes may decode to a third.
        slice_size: in-plane size (x, y) that masks are drawn at and enlarged from; None draws at the grid's own.
        depth_range: factors by which training volumes are squeezed or stretched along Z, so that other depths can be
            asked for; (1, 1) learns the depth of the grid alone.
        prediction: what the network gives: "classes", probabilities at each voxel of a one-hot code, or the noise
            ("epsilon") or velocity ("v") of any code.
        levels, schedule: T and the noise schedule, beta from 1e-4 to 0.02 (Ho et al. 2020) except for "cosine"; at
            another T than 1000 times 1000 / T, so that as little is left of the labels at the end.
        channels: width per level; each level after the first halves the slices.
        res_blocks: residual blocks per level.
        attention: which levels have self-attention, besides the middle, which always has it.
        head_channels: channels per attention head.
        loop: length and rates of the fit; no case is held out for it, so it never validates.
    """

    window: int = Field(6, ge=2)
    known: int = Field(2, ge=1)
    modes: tuple[float, float, float] = (0.4, 0.4, 0.2)
    label_code: Literal["one_hot", "scalar"] = "one_hot"
    slice_size: tuple[int, int] | None = None
    depth_range: tuple[float, float] = (1.0, 1.0)
    prediction: Literal["classes", "epsilon", "v"] = "classes"
    levels: int = Field(1000, ge=2)
    schedule: BetaSchedule = "linear"
    channels: tuple[int, ...] = (64, 128, 192)
    res_blocks: int = Field(1, ge=1)
    attention: tuple[bool, ...] = (False, False, True)
    head_channels: int = Field(32, ge=1)
    loop: LoopSettings = LoopSettings(
        updates=6000, batch_size=16, learning_rate=5e-4, weight_decay=1e-4, decay="cosine", warmup=100, ema=0.999
    )

    @model_validator(mode="after")
    def _check(self) -> MaskSequenceSettings:
        if self.known >= self.window:
            raise ValueError(f"known must be below window, got {self.known} and {self.window}: nothing is left to draw")
        if min(self.modes) <= 0 or not math.isclose(sum(self.modes), 1):
            raise ValueError(f"modes must be three probabilities above 0 with sum 1, got {self.modes}")
        if self.prediction == "classes" and self.label_code == "scalar":
            raise ValueError('a scalar label code has no class probabilities: take prediction "epsilon" or "v"')
        if not 0 < self.depth_range[0] <= self.depth_range[1]:
            raise ValueError(f"depth_range must be two factors, 0 < low <= high, got {self.depth_range}")
        if not self.channels or len(self.channels) != len(self.attention):
            raise ValueError(f"channels {self.channels} and attention {self.attention} must name the same levels")
        attended = [c for c, a in zip(self.channels, self.attention) if a] + [self.channels[-1]]
        if any(c % self.head_channels for c in attended):
            raise ValueError(
                f"widths with attention, {attended}, must be multiples of {self.head_channels} (head_channels)"
            )
        return self

    @property
    def downsampling(self) -> int:
        """By how much the U-Net shrinks a slice: its sides must be multiples of this."""
        return 2 ** (len(self.channels) - 1)

    def process(self) -> DiscreteDiffusion:
        """Return the diffusion process, Eq. 1."""
        ends = [min(beta * 1000 / self.levels, 0.999) for beta in (1e-4, 0.02)] if self.schedule != "cosine" else []
        alpha_bars = make_alpha_bars(make_betas(self.schedule, self.levels, *ends))
        return DiscreteDiffusion(alpha_bars, "epsilon" if self.prediction == "epsilon" else "v", bound=1.0)


class MaskSampling(Settings):
    """How a mask sequence is drawn.

    The paper: sampler "ddpm" with 1000 steps, first_window "random"; it gives no guidance scale.

    Attributes:
        sampler: of ``diffusion.sampler``, those for discrete diffusion.
        steps: evaluations of the network per window.
        guidance: s of Eq. 2, for windows that extend others; above 1 costs a second evaluation per step.
        first_window: where the walk begins: "fullest", about the height at which training volumes have most structures,
            or "random".
    """

    sampler: Literal["ddpm", "ddim", "dpm_solver"] = "dpm_solver"
    steps: int = Field(20, ge=1)
    guidance: float = Field(1.0, ge=1)
    first_window: Literal["fullest", "random"] = "fullest"


class MaskSequence(nn.Module):
    """The network of MC-DPM, and the walk over a volume that uses it.

    Args:
        classes: K, background included.

    >>> settings = MaskSequenceSettings(channels=(8, 8), attention=(False, False), head_channels=8)
    >>> model = MaskSequence(settings, classes=3)
    >>> codes, known = torch.zeros(2, 18, 8, 8), torch.zeros(2, 6)
    >>> model(codes, torch.tensor([0.0, 999.0]), known, torch.zeros(2, 2)).shape
    torch.Size([2, 18, 8, 8])
    """

    def __init__(self, settings: MaskSequenceSettings, classes: int) -> None:
        super().__init__()
        self.settings, self.classes, self.process = settings, classes, settings.process()
        self.code_channels = classes if settings.label_code == "one_hot" else 1
        width = 4 * settings.channels[0]
        self.unet = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=settings.window * (self.code_channels + 1),
            out_channels=settings.window * self.code_channels,
            channels=settings.channels,
            num_res_blocks=settings.res_blocks,
            attention_levels=settings.attention,
            num_head_channels=settings.head_channels,
            norm_num_groups=max(1, math.gcd(32, *settings.channels) // 2),
            num_class_embeds=1,
            use_flash_attention=True,
        )
        # MONAI adds the embedding of a class index to that of time. In its seat sits a network of z~ and time together.
        self.unet.class_embedding = nn.Sequential(nn.Linear(3 * EMBEDDING, width), nn.SiLU(), nn.Linear(width, width))
        self.register_buffer("fitted_on", torch.zeros(4, dtype=torch.long))
        """X, Y, lowest and highest depth of the training volumes: what can be asked for."""
        self.register_buffer("fullest", torch.tensor(0.5))
        """Relative height at which training volumes have most structures."""

    def forward(self, codes: Tensor, network_time: Tensor, known: Tensor, position: Tensor) -> Tensor:
        """Return what the process asks for, (B, m C, x, y) float32; its known slices mean nothing.

        Args:
            codes: (B, m C, x, y), known slices clean, others noised.
            network_time: (B,), as ``process.network_time`` gives it.
            known: (B, m), the binary indicators.
            position: (B, 2), z / D and (z + m) / D.
        """
        output = self.output(codes, network_time, known, position)
        if self.settings.prediction != "classes":
            return output
        probabilities = rearrange(output, "b (m k) x y -> b m k x y", k=self.classes).softmax(2)
        clean = rearrange(2 * probabilities - 1, "b m k x y -> b (m k) x y")
        signal, sigma = self.process.scales((network_time * (self.process.levels / SCALE)).round().long(), clean)
        return (signal * codes.float() - clean) / sigma  # v, from x_t and x_0

    def output(self, codes: Tensor, network_time: Tensor, known: Tensor, position: Tensor) -> Tensor:
        """Return what the U-Net gives: as :meth:`forward`, but logits where the prediction is "classes"."""
        indicators = known.to(codes.dtype)[:, :, None, None].expand(-1, -1, *codes.shape[2:])
        places = [network_time.float(), *(SCALE * position).float().unbind(1)]
        joined = torch.cat([get_timestep_embedding(place, EMBEDDING) for place in places], 1)
        return self.unet(torch.cat([codes, indicators], 1), network_time.float(), class_labels=joined).float()

    def encode(self, slices: Tensor) -> Tensor:
        """Return the code, (B, m C, x, y) in [-1, 1], of class indices (B, m, x, y)."""
        if self.settings.label_code == "scalar":
            return 2 * slices.float() / (self.classes - 1) - 1
        return rearrange(2.0 * F.one_hot(slices.long(), self.classes) - 1, "b m x y k -> b (m k) x y")

    def decode(self, codes: Tensor) -> Tensor:
        """Return the class indices (B, m, x, y) that lie nearest to codes (B, m C, x, y)."""
        if self.settings.label_code == "scalar":
            return ((codes + 1) / 2 * (self.classes - 1)).round().clamp(0, self.classes - 1).long()
        return rearrange(codes, "b (m k) x y -> b m k x y", k=self.classes).argmax(2)

    @torch.inference_mode()
    def sample(self, shape: Shape, seed: int, sampling: MaskSampling | None = None) -> np.ndarray:
        """Draw a label volume.

        Args:
            shape: X, Y and the depth asked for.

        Returns:
            (X, Y, depth) uint8 class indices; they depend on the arguments and the weights alone.

        Raises:
            InputError: a size or depth that the model was not fitted for.
            RunError: the network gives NaN or infinite values.
        """
        self.check(shape)
        sampling = sampling or MaskSampling()
        s, depth = self.settings, int(shape[2])
        size = s.slice_size or (int(shape[0]), int(shape[1]))
        random = torch.Generator().manual_seed(derive_seed("mask sequence", seed))
        slices = torch.zeros(depth, *size, dtype=torch.long, device=self.fitted_on.device)
        for z, known in self.windows(depth, seed, sampling):
            inside = slice(z, z + s.window)
            slices[inside] = self._draw(slices[inside], known, (z, depth), random, sampling)
        small = slices.permute(1, 2, 0).cpu().numpy().astype(np.uint8)
        return resample_classes(small, (*shape[:2], depth), (size[0] / shape[0], size[1] / shape[1], 1.0))

    def windows(self, depth: int, seed: int, sampling: MaskSampling | None = None) -> list[Window]:
        """Return the windows, in their order, with which :meth:`sample` fills a volume of this depth and seed."""
        window, known = self.settings.window, self.settings.known
        if (sampling or MaskSampling()).first_window == "fullest":
            start = min(max(int(float(self.fullest) * depth) - window // 2, 0), depth - window)
        else:
            random = torch.Generator().manual_seed(derive_seed("first window", seed))
            start = int(torch.randint(depth - window + 1, (), generator=random))
        return plan_windows(depth, start, window, known)

    def _draw(
        self, slices: Tensor, known: list[bool], place: tuple[int, int], random: torch.Generator, sampling: MaskSampling
    ) -> Tensor:
        """Return a window, (m, x, y) class indices, of which the known ones are those of ``slices``: Eq. 3."""
        process, device = self.process, slices.device
        indicators = torch.tensor([known], dtype=torch.float32, device=device)
        position = relative_position(*place, self.settings.window)[None].to(device)
        given = self.per_channel(indicators) > 0
        clean = self.encode(slices[None])
        noise = torch.randn(clean.shape, generator=random).to(device)

        def network(x: Tensor, time: Tensor, shown: Tensor) -> Tensor:
            # Known slices are clean where their indicators are up, and as noisy as the others where these are down.
            held = torch.where(self.per_channel(shown) > 0, clean, process.corrupt(clean, noise, time))
            with autocast(self.settings.loop.precision, device):
                return self(torch.where(given, held, x), process.network_time(time), shown, position)

        guided = guide(network, indicators, torch.zeros_like(indicators), sampling.guidance)  # Eq. 2
        codes = sample(sampling.sampler, guided, process, noise, sampling.steps, [random])
        codes = torch.where(given, clean, codes)
        if not torch.isfinite(codes).all():
            raise RunError(
                f"the mask window at slice {place[0]} holds NaN or infinite values: the fit of the mask sequence has "
                "diverged; fit again with a lower mask_sequence.loop.learning_rate"
            )
        return self.decode(codes)[0]

    def per_channel(self, per_slice: Tensor) -> Tensor:
        """(B, m) to (B, m C, 1, 1)."""
        return per_slice.repeat_interleave(self.code_channels, 1)[:, :, None, None]

    def check(self, shape: Shape) -> None:
        """Raise InputError for a size or a depth that the model was not fitted for."""
        x, y, low, high = self.fitted_on.tolist()
        if not high:
            raise InputError("this mask sequence model is not fitted: fit it, or load its weights")
        if tuple(shape[:2]) != (x, y):
            raise InputError(f"mask sequences were fitted on slices of {x} x {y} voxels, got {shape[0]} x {shape[1]}")
        if not low <= shape[2] <= high:
            span = f"volumes of {low} slices" if low == high else f"volumes of {low} to {high} slices"
            raise InputError(
                f"mask sequences were fitted on {span}, got a depth of {shape[2]}; "
                "mask_sequence.depth_range widens what can be asked for"
            )


class MaskSequenceTask(Task):
    """Corrupt the unknown slices of a window, predict, compare: Eq. 4, or the cross-entropy in its place."""

    def __init__(self, model: MaskSequence) -> None:
        super().__init__()
        self.model, self.process = model, model.process

    def forward(self, batch: Mapping[str, Any], player: str) -> dict[str, Tensor]:
        slices, known = batch["slices"].long(), batch["known"]
        clean = self.model.encode(slices)
        time = self.process.draw_times(len(clean), device=clean.device)
        noise = torch.randn_like(clean)
        given = self.model.per_channel(known)
        noisy = torch.where(given, clean, self.process.corrupt(clean, noise, time))  # X^C as it is beside X^P_t
        output = self.model.output(noisy, self.process.network_time(time), known, batch["position"])
        if self.model.settings.prediction == "classes":
            logits = rearrange(output, "b (m k) x y -> b k m x y", m=slices.shape[1])
            error = F.cross_entropy(logits, slices, reduction="none")
        else:
            error = (output - self.process.target(clean, noise, time)).square()
            error = rearrange(error, "b (m c) x y -> b m c x y", m=slices.shape[1]).mean(2)
        return {"loss": error.mean((2, 3))[~known].mean()}  # of the unknown slices alone


def make_mask_sequence(settings: MaskSequenceSettings, classes: int) -> MaskSequence:
    """Return a fresh model, to be fitted or to load weights into."""
    return MaskSequence(settings, classes)


def fit_mask_sequence(training: PreparedCohort, settings: MaskSequenceSettings, run: RunFolder) -> MaskSequence:
    """Fit MC-DPM on the labelled training cases; the same call again resumes.

    Raises:
        InputError: no labels; slices or depths that the windows or the network cannot take.
    """
    torch.manual_seed(derive_seed("mask sequence", run.seed))
    model = make_mask_sequence(settings, training.label_table.classes)
    batches = WindowBatches(training, settings, derive_seed("windows", run.seed))
    model.fitted_on.copy_(torch.tensor([*batches.in_plane, *batches.depths]))
    model.fullest.fill_(batches.fullest())
    fit(MaskSequenceTask(model), batches, settings.loop, run, "mask sequence")
    return model.eval()

"""Images from label maps, slice after slice along Z: the second step of MedGen3D, which is vid2vid.

Takes prepared pairs and learns to paint the next slice from its labels, the labels before it and the slices before it;
gives an :class:`ImageSequence` that paints a whole volume. The first slice has labels and noise alone.

    symbol          name                      the painter ("model") wants it small
    L_I             adversarial               verdict of the image critic, on the slice and on its new texture
    L_V             video                     verdicts of the video critics, mean over strides
                    features                  difference of all critics' features, painted and real
    L_W, 1st term   flow                      painter's flow against the reference flow, where that can be trusted
    L_W, 2nd term   warp                      real slice t-1, moved along the painter's flow, against real slice t
                    pixel                     slice and new texture against the real slice
                    perceptual                difference of VGG features; only with weights that the user has

Sources: MedGen3D (Han et al. 2023, arXiv 2304.04106), "Image Sequence Generator", takes vid2vid as it stands: Wang et
al. 2018 (arXiv 1808.06601), section 3 for L_I, L_V, L_W and the coarse-to-fine fit. Ours: flow without FlowNet2
(``flow``), the pixel loss where no VGG weights are at hand, and clips that begin from noise in the same network
instead of a second one for the first slice. AdamW is that of the loop, with beta_1 0.9 where vid2vid has 0.5.

Shapes: B clips, P past slices, T slices of a clip, S = P + T, K classes, X Y slice axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn

from voxpair.cohorts.datasets import PreparedCohort, pick
from voxpair.core.errors import InputError
from voxpair.core.run import RunFolder, derive_seed
from voxpair.core.settings import Settings
from voxpair.generators.medgen3d.critics import smallest_side
from voxpair.generators.medgen3d.painting import PaintingTask
from voxpair.generators.medgen3d.slice_painter import OUTSIDE, SlicePainter, one_hot, remember
from voxpair.generators.medgen3d.views import labelled
from voxpair.training.loop import LoopSettings, fit


class ImageSequenceSettings(Settings):
    """Painter, critics and fit of the image sequence.

    Attributes:
        past: slices that the painter remembers (vid2vid: 2).
        width: channels of the finest painter at full resolution (vid2vid: 128).
        halvings: of the coarsest painter (3).
        blocks: residual blocks of the coarsest painter, half of them before its branches (9).
        scales: painters from coarse to fine; each works at twice the resolution of the one before (1, for slices of
            up to 512 voxels a side).
        coarse_fraction: of the updates, spent on the coarser painters, each by itself.
        flow_gain: voxels that an output of 1 of the flow head stands for (20, for street scenes).
        shortcut: the painter's heads see the labels at full resolution too (False).
        critic_width, critic_layers, critic_levels: see ``critics`` (64, 3, 2).
        clip: slices that are painted one after the other in an update.
        temporal_scales: video critics, on slices 1, 3, 9, ... apart (2).
        from_noise: probability that a clip begins without past slices.
        video_weight, feature_weight, flow_weight, warp_weight: of the losses, that of ``adversarial`` being 1
            (1, 10, 10, 10).
        pixel_weight: of the difference in [0, 1] (0: vid2vid has the perceptual loss instead).
        perceptual_weight: of the perceptual loss, if there is a ``perceptual_file`` (10).
        perceptual_file: weights of torchvision's VGG-19 (.safetensors or .pth); None leaves the loss out.
        loop: length and rates of the fit (2e-4, one clip at a time, linear decay over the second half).
    """

    past: int = Field(2, ge=1)
    width: int = Field(16, ge=1)
    halvings: int = Field(2, ge=1)
    blocks: int = Field(6, ge=2)
    scales: int = Field(2, ge=1)
    coarse_fraction: float = Field(0.3, ge=0, lt=1)
    flow_gain: float = Field(4.0, gt=0)
    shortcut: bool = True
    critic_width: int = Field(32, ge=1)
    critic_layers: int = Field(2, ge=1)
    critic_levels: int = Field(2, ge=1)
    clip: int = Field(7, ge=3)
    temporal_scales: int = Field(2, ge=1)
    from_noise: float = Field(0.25, ge=0, le=1)
    video_weight: float = Field(1.0, ge=0)
    feature_weight: float = Field(10.0, ge=0)
    flow_weight: float = Field(10.0, ge=0)
    warp_weight: float = Field(10.0, ge=0)
    pixel_weight: float = Field(10.0, ge=0)
    perceptual_weight: float = Field(10.0, gt=0)
    perceptual_file: Path | None = None
    loop: LoopSettings = LoopSettings(
        updates=3000, batch_size=2, learning_rate=4e-4, weight_decay=0.0, decay="cosine", clip=None, ema=0.995
    )

    @model_validator(mode="after")
    def _check(self) -> ImageSequenceSettings:
        needed = 1 + 2 * self.strides[-1]
        if self.clip < needed:
            raise ValueError(
                f"the video critic with stride {self.strides[-1]} needs clips of {needed} slices, got clip="
                f"{self.clip}: set clip to {needed}, or temporal_scales below {self.temporal_scales}"
            )
        if self.from_noise == 0:
            raise ValueError("from_noise must be above 0, or the first slice of a volume is never learnt")
        return self

    @property
    def strides(self) -> tuple[int, ...]:
        return tuple(3**i for i in range(self.temporal_scales))

    @property
    def smallest_side(self) -> int:
        """Voxels along X and Y that slices must have, for the coarsest fit to have verdicts."""
        return smallest_side(self.critic_layers, self.critic_levels) * 2 ** (self.scales - 1)

    def coarser(self, update: int) -> int:
        """Return how often slices are halved in ``update``: the coarsest painter first, whole slices last.

        >>> settings = ImageSequenceSettings(scales=3, coarse_fraction=0.4, loop=LoopSettings(updates=10))
        >>> [settings.coarser(update) for update in range(10)]
        [2, 2, 1, 1, 0, 0, 0, 0, 0, 0]
        """
        coarse_updates = self.coarse_fraction * self.loop.updates
        if update >= coarse_updates:
            return 0
        return self.scales - 1 - int(update * (self.scales - 1) / coarse_updates)


class ImageSequence(nn.Module):
    """The painter with what it takes to paint volumes."""

    def __init__(self, settings: ImageSequenceSettings, classes: int) -> None:
        super().__init__()
        self.classes, self.past = classes, settings.past
        self.painter = SlicePainter(settings, classes)

    @torch.inference_mode()
    def paint(self, classes: np.ndarray, seed: int) -> np.ndarray:
        """Paint the image of a label map; it depends on the weights, the labels and the seed alone.

        Args:
            classes: (X, Y, Z) class indices 0..K-1.

        Returns:
            (X, Y, Z) float32 in [0, 1].

        Raises:
            InputError: ``classes`` is no volume, or has a class that the painter was not fitted for.
        """
        check_classes(classes, self.classes)
        self.eval()
        device = next(self.parameters()).device
        random = torch.Generator().manual_seed(derive_seed("image sequence", seed))
        images = torch.rand((1, self.past, *classes.shape[:2]), generator=random).to(device)
        known = torch.zeros(1, self.past, device=device)
        volume = np.empty(classes.shape, np.float32)
        for z in range(classes.shape[2]):
            window = torch.from_numpy(cut(classes, z - self.past, z + 1, OUTSIDE)).to(device)
            image = self.painter(one_hot(window[None], self.classes).flatten(1, 2), images, known).image
            images, known = remember(images, known, image)
            volume[:, :, z] = image[0, 0].cpu().numpy()
        return volume


def make_image_sequence(settings: ImageSequenceSettings, classes: int) -> ImageSequence:
    """Return an image sequence with fresh weights for K = ``classes`` classes, background included."""
    return ImageSequence(settings, classes)


def cut(volume: np.ndarray, start: int, stop: int, outside: float) -> np.ndarray:
    """Return axial slices ``start`` to ``stop`` of a volume (X, Y, Z) as (S, X, Y); ``outside`` where there is none.

    >>> cut(np.arange(4, dtype=np.float32).reshape(1, 1, 4), -1, 2, 9).ravel().tolist()
    [9.0, 0.0, 1.0]
    """
    kind = np.float32 if volume.dtype.kind == "f" else np.int16
    slices = np.full((stop - start, *volume.shape[:2]), outside, kind)
    first, last = max(start, 0), min(stop, volume.shape[2])
    slices[first - start : last - start] = np.moveaxis(volume[:, :, first:last], 2, 0)
    return slices


def check_classes(classes: np.ndarray, count: int) -> None:
    """Raise InputError unless ``classes`` is a volume of class indices below ``count``."""
    if classes.ndim != 3 or classes.dtype.kind not in "iu" or 0 in classes.shape:
        raise InputError(
            f"an image is painted from class indices of shape (X, Y, Z), got {classes.dtype} of shape {classes.shape}"
        )
    if classes.min() < 0 or classes.max() >= count:
        raise InputError(
            f"the label map has class indices {classes.min()} to {classes.max()}, but the painter was fitted for 0 to "
            f"{count - 1}: use a label map of the same label table"
        )


@dataclass(frozen=True)
class ClipBatches:
    """Clips of labelled cases as a pure function of the update: shuffled epochs of cases, each at a random height.

    Args:
        past, clip: P and T; a clip may begin at the bottom of the volume, and then has less past.
        batch_size: clips per update and device.
    """

    prepared: PreparedCohort
    past: int
    clip: int
    batch_size: int
    seed: int

    def batch(self, update: int, rank: int = 0, world_size: int = 1) -> dict[str, Any]:
        """Return ``image`` (B, S, X, Y) float32, 0 outside the volume, ``labels`` (B, S, X, Y) int16 class indices,
        OUTSIDE there, and ``names``."""
        images, labels, names = [], [], []
        for position in range(rank * self.batch_size, (rank + 1) * self.batch_size):
            index = pick(update, position, len(self.prepared), self.seed, batch_size=self.batch_size * world_size)
            case = self.prepared[index]
            random = np.random.default_rng(derive_seed("clip", self.seed, update, position))
            start = int(random.integers(case.image.shape[2] - self.clip + 1))
            window = (start - self.past, start + self.clip)
            images.append(torch.from_numpy(cut(case.image, *window, 0)))
            labels.append(torch.from_numpy(cut(case.labels, *window, OUTSIDE)))
            names.append(case.name)
        return {"image": torch.stack(images), "labels": torch.stack(labels), "names": names}


def fit_image_sequence(training: PreparedCohort, settings: ImageSequenceSettings, run: RunFolder) -> ImageSequence:
    """Fit on the labelled cases of ``training``; the same call again resumes.

    Raises:
        InputError: no case has labels, or the slices are too few or too small for the critics.
    """
    cases = labelled(training)
    if reason := too_small(cases[0].image.shape, settings):
        raise InputError(reason)
    torch.manual_seed(derive_seed("image sequence", run.seed))
    network = make_image_sequence(settings, training.label_table.classes)
    task = PaintingTask(network.painter, settings, network.classes)
    batches = ClipBatches(cases, settings.past, settings.clip, settings.loop.batch_size, derive_seed("clips", run.seed))
    fit(task, batches, settings.loop, run, "image sequence")
    return network.eval()


def too_small(shape: tuple[int, ...], settings: ImageSequenceSettings) -> str:
    """Return why volumes of this shape (X, Y, Z) cannot be learnt from with these settings; nothing where they can."""
    if shape[2] < settings.clip:
        return (
            f"the prepared volumes have {shape[2]} axial slices, fewer than image_sequence.clip = {settings.clip}: "
            "use a taller grid, or a smaller clip and temporal_scales"
        )
    if min(shape[:2]) < settings.smallest_side:
        return (
            f"the prepared slices have {shape[0]} x {shape[1]} voxels, but critics of image_sequence.critic_layers = "
            f"{settings.critic_layers}, critic_levels = {settings.critic_levels} and scales = {settings.scales} need "
            f"{settings.smallest_side} a side: use a larger grid, or fewer of these"
        )
    return ""

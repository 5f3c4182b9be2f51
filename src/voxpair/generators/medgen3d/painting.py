"""How the image sequence is fitted: painter and critics as two players, and the losses between them.

Takes clips of real slices with their labels; gives the losses of vid2vid, named as in ``image_sequence``.

    update of the painter:  paint T slices, each from its labels and what was painted before; be judged; follow
    update of the critics:  tell those slices from real ones

Source: see ``image_sequence``, ``critics`` and ``flow``.

Shapes: B clips, P past slices, T slices of a clip, S = P + T, K classes, X Y slice axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voxpair.generators.medgen3d.critics import (
    Critics,
    Judgement,
    adversarial_loss,
    critic_loss,
    feature_matching_loss,
)
from voxpair.generators.medgen3d.flow import confidence, optical_flow, warp
from voxpair.generators.medgen3d.perceptual import perceptual_loss
from voxpair.generators.medgen3d.slice_painter import OUTSIDE, SlicePainter, Stroke, one_hot, remember
from voxpair.training.loop import Task

if TYPE_CHECKING:
    from voxpair.generators.medgen3d.image_sequence import ImageSequenceSettings

LABEL_SHARE = 0.1
"""Of the label maps beside the image in the reference flow. On phantom hearts it takes a quarter off the error of
warped labels (a third, three slices apart) and leaves that of warped images as it is; 0.25 spoils the latter."""


@dataclass(frozen=True)
class Clip:
    """Real slices at the resolution of an update.

    Args:
        images: (B, S, X, Y) in [0, 1].
        labels: (B, S, K, X, Y), one-hot or soft.
        inside: (B, S), 1 for slices of the volume, 0 below it.
        flows: per stride s, reference flow (B, N - s, 2, X, Y) from slice t back to t - s; N is T + 1 (with the last
            past slice) for s = 1, which the painter's flow is compared with, else T.
    """

    images: Tensor
    labels: Tensor
    inside: Tensor
    flows: Mapping[int, Tensor]


class PaintingTask(Task):
    """Painter and critics with their losses."""

    def __init__(self, painter: SlicePainter, settings: ImageSequenceSettings, classes: int) -> None:
        super().__init__()
        s = self.settings = settings
        self.painter, self.classes = painter, classes
        self.critics = Critics(classes, s.critic_width, s.critic_layers, s.critic_levels, s.strides)
        self.perceptual = perceptual_loss(s.perceptual_file) if s.perceptual_file else None
        self._latest: tuple[Tensor, Clip, Stroke] | None = None

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"model": list(self.painter.parameters()), "critic": list(self.critics.parameters())}

    def forward(self, batch: Mapping[str, Any], player: str) -> dict[str, Tensor]:
        self.critics.requires_grad_(player == "critic")
        if player == "critic":
            return {"loss": self._critic_loss(*self._painted(batch))}
        coarser = self.settings.coarser(batch["update"])
        clip = self.real_clip(batch, coarser)
        strokes, followed = self.paint(clip, coarser)
        self._latest = (batch["image"], clip, strokes.detach())
        losses = self._judged(clip, strokes) | self._moved(clip, strokes, followed) | self._compared(clip, strokes)
        s = self.settings
        weights = {
            "adversarial": 1.0,
            "video": s.video_weight,
            "features": s.feature_weight,
            "flow": s.flow_weight,
            "warp": s.warp_weight,
            "pixel": s.pixel_weight,
            "perceptual": s.perceptual_weight,
        }
        return {"loss": sum(weights[name] * loss for name, loss in losses.items()), **losses}

    def paint(self, clip: Clip, coarser: int) -> tuple[Stroke, Tensor]:
        """Paint the T slices of a clip, some clips from their real past and some from noise.

        Returns:
            a stroke whose arrays are (B, T, C, X, Y), and (B, T): 1 where a slice had one before it.
        """
        past = self.painter.past
        images, known = clip.images[:, :past], clip.inside[:, :past]
        from_noise = torch.rand(len(images), 1, device=images.device) < self.settings.from_noise
        known = known * ~from_noise
        images = torch.where(known[:, :, None, None] > 0, images, torch.rand_like(images))
        strokes, followed = [], []
        for t in range(past, clip.images.shape[1]):
            labels = clip.labels[:, t - past : t + 1].flatten(1, 2)
            strokes.append(self.painter.at(coarser)(labels, images, known))
            followed.append(known[:, -1])
            images, known = remember(images, known, strokes[-1].image)
        parts = (torch.stack([getattr(s, name) for s in strokes], 1) for name in Stroke.__dataclass_fields__)
        return Stroke(*parts), torch.stack(followed, 1)

    def _judged(self, clip: Clip, strokes: Stroke) -> dict[str, Tensor]:
        """Return what the critics say of the painted slices, and how their features differ from the real ones'."""
        adversarial, matching = [], []
        for name, real, painted in self._judgements(clip, strokes):
            adversarial.append((name, adversarial_loss(painted)))
            matching.append((name, feature_matching_loss(real, painted)))
        return {
            "adversarial": _mean_of("image", adversarial),
            "video": _mean_of("video", adversarial),
            "features": _mean_of("image", matching) + self.settings.video_weight * _mean_of("video", matching),
        }

    def _critic_loss(self, clip: Clip, strokes: Stroke) -> Tensor:
        losses = [(name, critic_loss(real, made)) for name, real, made in self._judgements(clip, strokes)]
        return _mean_of("image", losses) + _mean_of("video", losses)

    def _judgements(self, clip: Clip, strokes: Stroke) -> list[tuple[str, Judgement, Judgement]]:
        """Return ("image" or "video", judgement of the real, judgement of the painted) for each comparison."""
        past = self.painter.past
        images, labels = clip.images[:, past:], clip.labels[:, past:]
        real = self.critics.judge_slices(images, labels)
        judgements = [
            ("image", real, self.critics.judge_slices(painted[:, :, 0], labels))
            for painted in (strokes.image, strokes.texture)
        ]
        for stride in self.settings.strides:
            flows = clip.flows[stride][:, 1:] if stride == 1 else clip.flows[stride]
            pair = (self.critics.judge_clips(slices, flows, stride) for slices in (images, strokes.image[:, :, 0]))
            judgements.append(("video", *pair))
        return judgements

    def _moved(self, clip: Clip, strokes: Stroke, followed: Tensor) -> dict[str, Tensor]:
        """Return both terms of L_W over the slices that had one before them, real or painted."""
        past = self.painter.past
        fixed = clip.images[:, past:].flatten(0, 1).unsqueeze(1)
        moving = clip.images[:, past - 1 : -1].flatten(0, 1).unsqueeze(1)
        flow, reference = strokes.flow.flatten(0, 1), clip.flows[1].flatten(0, 1)
        followed = followed.flatten()[:, None, None, None]
        trusted = followed * confidence(fixed, moving, reference)
        distance = (flow - reference).abs().mean(1, keepdim=True)
        error = (warp(moving, flow) - fixed).abs()
        return {"flow": _weighted_mean(distance, trusted), "warp": _weighted_mean(error, followed.expand_as(error))}

    def _compared(self, clip: Clip, strokes: Stroke) -> dict[str, Tensor]:
        """Return the losses of slice and texture against the real slice, voxel by voxel or by VGG features."""
        real = clip.images[:, self.painter.past :].flatten(0, 1).unsqueeze(1)
        image, texture = strokes.image.flatten(0, 1), strokes.texture.flatten(0, 1)
        losses = {"pixel": (F.l1_loss(image, real) + F.l1_loss(texture, real)) / 2}
        if self.perceptual is not None:
            losses["perceptual"] = (self.perceptual(image, real) + self.perceptual(texture, real)) / 2
        return losses

    @torch.no_grad()
    def _painted(self, batch: Mapping[str, Any]) -> tuple[Clip, Stroke]:
        """Return what the painter made of this batch in its own turn.

        A batch that the loop cuts into passes comes back as another tensor, and is painted anew.
        """
        if self._latest is not None and self._latest[0] is batch["image"]:
            return self._latest[1:]
        coarser = self.settings.coarser(batch["update"])
        clip = self.real_clip(batch, coarser)
        return clip, self.paint(clip, coarser)[0]

    def real_clip(self, batch: Mapping[str, Any], coarser: int) -> Clip:
        """Return the batch with its slices halved ``coarser`` times, and the flow between them."""
        past = self.painter.past
        images, labels = batch["image"], one_hot(batch["labels"], self.classes)
        inside = (batch["labels"][:, :, 0, 0] != OUTSIDE).float()
        for _ in range(coarser):
            images, labels = F.avg_pool2d(images, 2), F.avg_pool3d(labels, (1, 2, 2))
        seen = torch.cat([images.unsqueeze(2), LABEL_SHARE * labels], 2)
        flows = {
            stride: _reference_flow(seen[:, past - 1 :] if stride == 1 else seen[:, past:], stride)
            for stride in self.settings.strides
        }
        return Clip(images, labels, inside, flows)


def _reference_flow(seen: Tensor, stride: int) -> Tensor:
    """Return the flow (B, N - stride, 2, X, Y) that brings slice t - stride onto slice t; ``seen``: (B, N, C, X, Y)."""
    fixed, moving = seen[:, stride:], seen[:, :-stride]
    return optical_flow(fixed.flatten(0, 1), moving.flatten(0, 1)).unflatten(0, fixed.shape[:2])


def _mean_of(kind: str, named: list[tuple[str, Tensor]]) -> Tensor:
    return torch.stack([loss for name, loss in named if name == kind]).mean()


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return the mean with these weights; 0 where all are 0, as when every clip begins from noise."""
    return (weights * values).sum() / weights.sum().clamp(min=1)

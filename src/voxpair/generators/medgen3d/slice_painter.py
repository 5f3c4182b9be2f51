"""The network that paints the next slice: new texture, the slice before moved along a flow, and how to mix them.

    labels of slices t-P..t   -> stem, down ┐               ┌ blocks, up -> texture head   h    in [0, 1]
                                            ├ add -> blocks ┤            ┌ flow head       w    voxels
    images of slices t-P..t-1 -> stem, down ┘               └ blocks, up ┤
    and whether each is there                                            └ weight head     m    in [0, 1]

    x_t = (1 - m) * warp(x_{t-1}, w) + m * h

    symbol       name                            meaning
    x_t          image                           painted slice
    x_{t-P..}    past                            the P slices before; noise where there are none
    s_t          labels                          label maps
    h, w, m      texture, flow, new_weight       see above; m = 1 where there is no slice before

Coarse to fine: a fine painter has one halving of its own and adds the features of the painter at half resolution to
its branches, so that painter can be fitted first and by itself.

Source: vid2vid, Wang et al. 2018 (arXiv 1808.06601), section 3 and appendix: the blend is its sequential generator,
the adding of features its coarse-to-fine generator. Ours: GroupNorm in place of BatchNorm, so that no slice depends
on the others in its batch; nearest-neighbour enlargement before convolutions in place of transposed ones, which leave
a chequerboard; the indicators, so that one network paints the first slice too; and the shortcut from the label stem to
the heads, without which edges have to come through the halvings and lie where they can.

Shapes: B slices painted side by side, P past slices, K classes, C channels, X Y slice axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from monai.networks.blocks import Convolution, ResidualUnit
from torch import Tensor, nn

from voxpair.generators.medgen3d.flow import warp

if TYPE_CHECKING:
    from voxpair.generators.medgen3d.image_sequence import ImageSequenceSettings

OUTSIDE = -1  # class index of slices below or above the volume
BLOCKS_OF_FINE = 3  # residual blocks of all painters but the coarsest, as in vid2vid


@dataclass(frozen=True)
class Stroke:
    """One painted slice and what it was made of: all (B, 1, X, Y) but ``flow``, (B, 2, X, Y)."""

    image: Tensor
    texture: Tensor
    flow: Tensor
    new_weight: Tensor

    def detach(self) -> Stroke:
        return Stroke(self.image.detach(), self.texture.detach(), self.flow.detach(), self.new_weight.detach())


class SlicePainter(nn.Module):
    """vid2vid's generator at one resolution, with the coarser ones inside.

    Args:
        level: 0 is the finest; each one more has half the resolution and twice the width.

    >>> from voxpair.generators.medgen3d.image_sequence import ImageSequenceSettings
    >>> painter = SlicePainter(ImageSequenceSettings(past=2, width=4, halvings=1, blocks=2, scales=2), classes=3)
    >>> stroke = painter(torch.zeros(1, 9, 10, 13), torch.zeros(1, 2, 10, 13), torch.zeros(1, 2))
    >>> stroke.image.shape, stroke.flow.shape
    (torch.Size([1, 1, 10, 13]), torch.Size([1, 2, 10, 13]))
    """

    def __init__(self, settings: ImageSequenceSettings, classes: int, level: int = 0) -> None:
        super().__init__()
        self.past, self.flow_gain, self.shortcut = settings.past, settings.flow_gain, settings.shortcut
        past, width = settings.past, settings.width * 2**level
        halvings, blocks = settings.halvings, settings.blocks
        self.coarse: SlicePainter | None = None
        if level + 1 < settings.scales:
            self.coarse = SlicePainter(settings, classes, level + 1)
            halvings, blocks = 1, BLOCKS_OF_FINE
        self.multiple = 2**halvings if self.coarse is None else 2 * self.coarse.multiple
        before, after = blocks - blocks // 2, blocks // 2
        self.label_stem = _convolution((past + 1) * classes, width, kernel_size=7)
        self.label_encoder = _encoder(width, halvings, before)
        self.image_stem = _convolution(2 * past, width, kernel_size=7)
        self.image_encoder = _encoder(width, halvings, before)
        self.texture_branch = _branch(width, halvings, after)
        self.flow_branch = _branch(width, halvings, after)
        self.texture_head = nn.Conv2d(width, 1, 7, padding=3)
        self.flow_head = nn.Conv2d(width, 2, 7, padding=3)
        self.weight_head = nn.Conv2d(width, 1, 7, padding=3)
        for parameter in self.flow_head.parameters():
            nn.init.zeros_(parameter)  # nothing moves until it is learnt

    def at(self, coarser: int) -> SlicePainter:
        """Return the painter that works at ``2^coarser`` times larger voxels; 0 is this one."""
        return self if coarser == 0 else self.coarse.at(coarser - 1)

    def forward(self, labels: Tensor, past: Tensor, known: Tensor) -> Stroke:
        """Paint one slice.

        Args:
            labels: (B, (P + 1) * K, X, Y), one-hot or soft; zeros outside the volume.
            past: (B, P, X, Y) in [0, 1], the latest last; noise where ``known`` is 0.
            known: (B, P), 1 where there is a slice and 0 where there is none.
        """
        sides = past.shape[2:]
        missing = [-n % self.multiple for n in sides]
        padding = (0, missing[1], 0, missing[0])
        indicators = known[:, :, None, None].expand_as(past).to(past)
        memory = torch.cat([2 * past - 1, indicators], 1)
        made, moved = self.features(F.pad(labels, padding), F.pad(memory, padding))
        made, moved = (features[:, :, : sides[0], : sides[1]] for features in (made, moved))
        texture = self.texture_head(made).float().sigmoid()
        flow = self.flow_gain * self.flow_head(moved).float()
        new_weight = 1 - known[:, -1].reshape(-1, 1, 1, 1) * (1 - self.weight_head(moved).float().sigmoid())
        image = (1 - new_weight) * warp(past[:, -1:], flow) + new_weight * texture
        return Stroke(image, texture, flow, new_weight)

    def features(self, labels: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features that the texture head and the flow and weight heads read: (B, width, X, Y) each."""
        drawn = self.label_stem(labels)
        made = moved = self.label_encoder(drawn) + self.image_encoder(self.image_stem(memory))
        if self.coarse is not None:
            coarse = self.coarse.features(F.avg_pool2d(labels, 2), F.avg_pool2d(memory, 2))
            made, moved = made + coarse[0], moved + coarse[1]
        made, moved = self.texture_branch(made), self.flow_branch(moved)
        return (made + drawn, moved + drawn) if self.shortcut else (made, moved)


def one_hot(classes: Tensor, count: int) -> Tensor:
    """Return (B, S, K, X, Y) float32 for class indices (B, S, X, Y); zeros outside the volume.

    >>> one_hot(torch.tensor([[[[OUTSIDE, 0, 1]]]]), 2)[0, 0, :, 0].tolist()
    [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    return F.one_hot(classes.long() - OUTSIDE, count + 1)[..., 1:].movedim(-1, 2).float()


def remember(images: Tensor, known: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """Return the last P slices (B, P, X, Y) and that they are known (B, P), after ``image`` (B, 1, X, Y) was painted.

    A slice is remembered without its gradient, as in vid2vid: what later slices make of it is not its fault.
    """
    return (
        torch.cat([images[:, 1:], image.detach()], 1),
        torch.cat([known[:, 1:], torch.ones_like(known[:, :1])], 1),
    )


def _encoder(width: int, halvings: int, blocks: int) -> nn.Sequential:
    down = [_convolution(width * 2**i, width * 2 ** (i + 1), strides=2) for i in range(halvings)]
    return nn.Sequential(*down, *_blocks(width * 2**halvings, blocks))


def _branch(width: int, halvings: int, blocks: int) -> nn.Sequential:
    up: list[nn.Module] = []
    for i in reversed(range(halvings)):
        up += [nn.Upsample(scale_factor=2), _convolution(width * 2 ** (i + 1), width * 2**i)]
    return nn.Sequential(*_blocks(width * 2**halvings, blocks), *up)


def _blocks(width: int, count: int) -> list[nn.Module]:
    return [ResidualUnit(2, width, width, act="RELU", norm=_norm(width)) for _ in range(count)]


def _convolution(channels: int, width: int, **options: int) -> nn.Module:
    return Convolution(2, channels, width, act="RELU", norm=_norm(width), **options)


def _norm(width: int) -> tuple[str, dict[str, int]]:
    """GroupNorm with as near to 8 channels a group as divides ``width``; groups of one would erase what is even."""
    groups = max(g for g in range(1, max(1, width // 8) + 1) if width % g == 0)
    return "GROUP", {"num_groups": groups}

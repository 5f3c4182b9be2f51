"""Critics of painted slices: one that sees a slice beside its labels, and some that see several slices beside the flow.

Takes images with what they are judged beside; gives verdicts and features, and the losses made of them.

    symbol   name             sees                                                       says
    D_I      Critics.image    a slice and its labels                                     does the slice fit its labels?
    D_V      Critics.video    3 slices, s apart, and the 2 flows between the real ones   do they follow one another?
    s        stride           1, 3, 9, ...: one critic each (vid2vid's temporal scales)

Every critic is a pyramid of patch critics, each at half the resolution of the one before. (MONAI's
MultiScalePatchDiscriminator deepens its critics instead of shrinking the image, which slices of 64 voxels are too
small for.) Verdicts are least squares: 1 is real, 0 is painted.

Source: vid2vid, Wang et al. 2018 (arXiv 1808.06601), section 3: L_I and L_V; feature matching is that of pix2pixHD
(Wang et al. 2018, arXiv 1711.11585); least squares are those of Mao et al. 2017.

Shapes: B clips, T slices, K classes, C channels, X Y slice axes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.losses import PatchAdversarialLoss
from monai.networks.nets import PatchDiscriminator
from torch import Tensor, nn

VIDEO_SLICES = 3
Judgement = list[list[Tensor]]
"""Per level of the pyramid: features, shallow to deep, and the verdict last."""

_least_squares = PatchAdversarialLoss(criterion="least_squares", no_activation_leastsq=True)


class PyramidCritic(nn.Module):
    """Patch critics at full, half, quarter ... resolution.

    Args:
        layers: convolutions after the first; a verdict concerns 16, 34, 70 voxels a side with 1, 2, 3.
        levels: of the pyramid.

    >>> judgement = PyramidCritic(channels=4, width=8, layers=2, levels=2)(torch.zeros(1, 4, 32, 32))
    >>> [[tuple(f.shape[1:]) for f in level] for level in judgement]  # doctest: +NORMALIZE_WHITESPACE
    [[(8, 16, 16), (16, 8, 8), (32, 7, 7), (1, 6, 6)],
     [(8, 8, 8), (16, 4, 4), (32, 3, 3), (1, 2, 2)]]
    """

    def __init__(self, channels: int, width: int, layers: int, levels: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            PatchDiscriminator(
                spatial_dims=2, channels=width, in_channels=channels, num_layers_d=layers, norm="INSTANCE"
            )
            for _ in range(levels)
        )

    def forward(self, seen: Tensor) -> Judgement:
        judgement = []
        for critic in self.levels:
            judgement.append([feature.float() for feature in critic(seen)])
            seen = F.avg_pool2d(seen, 3, 2, 1, count_include_pad=False)
        return judgement


class Critics(nn.Module):
    """The image critic and the video critics.

    Args:
        strides: 1, 3, 9, ... slices; empty has no video critic.
    """

    def __init__(self, classes: int, width: int, layers: int, levels: int, strides: Sequence[int]) -> None:
        super().__init__()
        self.image = PyramidCritic(1 + classes, width, layers, levels)
        flow_channels = 2 * (VIDEO_SLICES - 1)
        self.video = nn.ModuleDict(
            {str(stride): PyramidCritic(VIDEO_SLICES + flow_channels, width, layers, levels) for stride in strides}
        )

    def judge_slices(self, images: Tensor, labels: Tensor) -> Judgement:
        """Judge each slice beside its labels.

        Args:
            images: (B, T, X, Y) in [0, 1].
            labels: (B, T, K, X, Y), one-hot or soft.
        """
        return self.image(torch.cat([2 * images.unsqueeze(2) - 1, 2 * labels - 1], 2).flatten(0, 1))

    def judge_clips(self, images: Tensor, flows: Tensor, stride: int) -> Judgement:
        """Judge each run of 3 slices, ``stride`` apart.

        Args:
            images: (B, T, X, Y) in [0, 1].
            flows: (B, T - stride, 2, X, Y), from slice t + stride back to slice t; those of the real slices.
        """
        return self.video[str(stride)](clips(images, flows, stride))


def clips(images: Tensor, flows: Tensor, stride: int) -> Tensor:
    """Return (B * (T - 2 stride), 7, X, Y): every run of 3 slices and their 2 flows, as a video critic sees them."""
    runs = images.shape[1] - (VIDEO_SLICES - 1) * stride
    slices = [2 * images[:, i * stride : i * stride + runs] - 1 for i in range(VIDEO_SLICES)]
    moves = [flows[:, i * stride : i * stride + runs] for i in range(VIDEO_SLICES - 1)]
    return torch.cat([torch.stack(slices, 2), *moves], 2).flatten(0, 1)


def adversarial_loss(judgement: Judgement) -> Tensor:
    """Return how far the verdicts are from "real": what the painter wants small."""
    return _least_squares([level[-1] for level in judgement], target_is_real=True, for_discriminator=False)


def critic_loss(real: Judgement, painted: Judgement) -> Tensor:
    """Return how far the verdicts are from the truth: what a critic wants small."""
    losses = [
        _least_squares([level[-1] for level in judgement], target_is_real=is_real, for_discriminator=True)
        for judgement, is_real in ((real, True), (painted, False))
    ]
    return (losses[0] + losses[1]) / 2


def feature_matching_loss(real: Judgement, painted: Judgement) -> Tensor:
    """Return the mean absolute difference of features: summed over layers, mean over the levels of the pyramid."""
    differences = [
        sum(F.l1_loss(p, r.detach()) for p, r in zip(painted_level[:-1], real_level[:-1]))
        for real_level, painted_level in zip(real, painted)
    ]
    return torch.stack(differences).mean()


def smallest_side(layers: int, levels: int) -> int:
    """Return the smallest side of a slice that every critic of the pyramid gives a verdict on.

    >>> smallest_side(layers=2, levels=2)
    24
    """
    return 3 * 2 ** (layers + levels - 1)

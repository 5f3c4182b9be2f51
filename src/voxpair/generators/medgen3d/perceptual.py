"""The perceptual loss of vid2vid, with VGG-19 weights that the user supplies; nothing is ever downloaded.

Takes a weights file in torchvision's naming (``features.0.weight`` ...); gives the loss between two batches of slices.

    layer    relu1_1   relu2_1   relu3_1   relu4_1   relu5_1
    weight   1/32      1/16      1/8       1/4       1

Source: pix2pixHD (Wang et al. 2018, arXiv 1711.11585), which vid2vid takes it from; VGG-19 is Simonyan and Zisserman's
(2015), in the layout of torchvision.

Shapes: B slices, X Y slice axes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voxpair.core.errors import InputError
from voxpair.training.state import read_state_dict

LAYOUT = (64, 64, "pool", 128, 128, "pool", *[256] * 4, "pool", *[512] * 4, "pool", 512)
TAPS = {1: 1 / 32, 6: 1 / 16, 11: 1 / 8, 20: 1 / 4, 29: 1.0}  # index of the ReLU -> weight
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which the network was fitted on

Loss = Callable[[Tensor, Tensor], Tensor]


def perceptual_loss(weights: Path) -> Loss:
    """Return the loss of images (B, 1, X, Y) in [0, 1] against real ones: weighted mean differences of features.

    It is a function and no module, so that 80 MB that never change do not go into every checkpoint.

    Raises:
        InputError: the file cannot be read or is not that of a VGG-19.
    """
    network = vgg_features()
    state = {name.removeprefix("features."): value for name, value in read_state_dict(weights).items()}
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    wrong = [name for name, shape in wanted.items() if name not in state or tuple(state[name].shape) != shape]
    if wrong:
        raise InputError(
            f"{weights} has no VGG-19 in torchvision's naming: features.{wrong[0]} is missing or of another shape. "
            "Save torchvision.models.vgg19(weights=...).state_dict() and name that file."
        )
    network.load_state_dict({name: state[name] for name in wanted})
    network.eval().requires_grad_(False)

    def loss(images: Tensor, real: Tensor) -> Tensor:
        network.to(images.device)
        with torch.no_grad():
            targets = _tapped(network, real)
        return sum(
            weight * F.l1_loss(feature.float(), target.float())
            for weight, feature, target in zip(TAPS.values(), _tapped(network, images), targets)
        )

    return loss


def vgg_features() -> nn.Sequential:
    """Return VGG-19's layers up to relu5_1, numbered as torchvision numbers them.

    >>> network = vgg_features()
    >>> len(network), [index for index in TAPS if not isinstance(network[index], nn.ReLU)]
    (30, [])
    """
    layers: list[nn.Module] = []
    channels = 3
    for width in LAYOUT:
        if width == "pool":
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
    return nn.Sequential(*layers)


def _tapped(network: nn.Sequential, images: Tensor) -> list[Tensor]:
    mean, std = (torch.tensor(v, device=images.device).reshape(1, 3, 1, 1) for v in (MEAN, STD))
    features, tapped = (images - mean) / std, []
    for index, layer in enumerate(network):
        features = layer(features)
        if index in TAPS:
            tapped.append(features)
    return tapped

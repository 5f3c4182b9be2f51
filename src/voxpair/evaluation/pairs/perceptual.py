"""Feature networks of others, read from a file that the user names, as extractors for fidelity.

Takes the name of an architecture and a weights file; gives an :class:`~voxpair.core.interfaces.Extractor`. Nothing is
ever downloaded. The architectures are torchvision's, an extra: ``pip install voxpair[perceptual]``.

    name                   weights file                                                    input           vector
    radimagenet_resnet50   RadImageNet's own PyTorch ResNet50, or torchvision's layout     224, [-1, 1]    2048
    imagenet_inception     torchvision's Inception v3; not the TensorFlow port of "FID"    299, ImageNet   2048
    imagenet_alexnet       torchvision's AlexNet, or the state dict of lpips.LPIPS         224, ImageNet   256
    imagenet_squeezenet    torchvision's SqueezeNet 1.1, or the state dict of lpips.LPIPS  224, ImageNet   512

2.5D: a volume is stretched to a cube of the network's size and seen as 16 slices, evenly spread over the central 40 %
of each of the three axes. A view's vector is the mean of the deepest features over slices and over each slice.

RadImageNet weights that were converted from Keras are of another network (biases, other strides) and are refused.

Sources: Mei et al. 2022 (RadImageNet); Guo et al. 2025 (MAISI: features of slices along three axes, the central 40 %).

Shapes: N slices, C channels, H W axes of a slice, X Y Z volume axes.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn

from voxpair.cohorts.preprocess import Preprocessor, PreprocessSettings
from voxpair.core.case import Case
from voxpair.core.errors import InputError
from voxpair.core.tensors import sha256
from voxpair.training.state import read_state_dict

SLICES = 16
_AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
_MARGIN = 0.3  # of an axis, left out at either end


@dataclass(frozen=True)
class Architecture:
    """How a network is built, and how its weights are named in the files that people have.

    Args:
        build: torchvision's models -> layers to run one after another, named as in the state dict.
        taps: after which layers LPIPS looks; empty where it does not.
        side: voxels a side of a slice.
        mean, std: what the network was trained with, per channel.
        ignored: start of entries that belong to a classifier and have no use here.
        renamed: (pattern, replacement) for the entries of other layouts.
    """

    build: Callable[[ModuleType], nn.Sequential]
    taps: tuple[str, ...] = ()
    side: int = 224
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    ignored: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, eq=False)
class FeatureNetwork:
    """A network with its weights.

    Args:
        name: as in tables.
        digest: SHA-256 of the weights file.
        layers: run in order on slices (N, 3, H, W).
        linear: LPIPS' weight per channel (C,) for each tap; empty where the file has none.
    """

    name: str
    digest: str
    architecture: Architecture
    layers: nn.Sequential
    linear: tuple[Tensor, ...] = field(default=())

    @torch.inference_mode()
    def maps(self, slices: Tensor) -> list[Tensor]:
        """Return the features (N, C, H', W') at each tap and after the last layer, for slices (N, H, W) in [0, 1]."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.architecture.mean, self.architecture.std))
        device = next(self.layers.parameters()).device
        x, found = ((slices[:, None] - mean) / std).to(device), []
        for name, layer in self.layers.named_children():
            x = layer(x)
            if name in self.architecture.taps:
                found.append(x.clone())  # a ReLU in place may follow
        return [*found, x]


def read_network(name: str, weights: Path, device: str = "cpu") -> FeatureNetwork:
    """Build the architecture ``name`` and fill it from a file.

    Raises:
        InputError: no such architecture; torchvision is absent; the file is no state dict or of another network.
    """
    if name not in ARCHITECTURES:
        raise InputError(f"there is no feature network {name!r}; choose one of {', '.join(ARCHITECTURES)}")
    try:
        from torchvision import models
    except ImportError:
        raise InputError(
            f"{name} needs torchvision, which is not installed: pip install 'voxpair[perceptual]', "
            "or measure with the segmenter's encoder, which needs nothing more"
        ) from None
    architecture = ARCHITECTURES[name]
    return fill(name, architecture, architecture.build(models), weights, device)


def fill(
    name: str, architecture: Architecture, layers: nn.Sequential, weights: Path, device: str = "cpu"
) -> FeatureNetwork:
    """Load ``weights`` into ``layers``; every weight must be there, and nothing but a classifier may be left over."""
    found = _renamed(read_state_dict(weights), architecture.renamed)
    linear = [found.pop(key).flatten() for key in sorted(key for key in found if re.match(r"lin\d+\.", key))]
    found = {key: value for key, value in found.items() if not key.startswith(architecture.ignored)}
    own = layers.state_dict()
    fits = {key for key in own if key in found and found[key].shape == own[key].shape}
    missing, unexpected = sorted(set(own) - fits), sorted(set(found) - set(own))
    if missing or unexpected:
        raise InputError(
            f"{weights} does not hold the weights of {name}: {len(fits)} of {len(own)} entries fit, "
            f"{len(missing)} are missing or of another shape (first {missing[:1]}), "
            f"{len(unexpected)} are unexpected (first {unexpected[:1]})"
        )
    if linear and len(linear) != len(architecture.taps):
        raise InputError(
            f"{weights} holds {len(linear)} of LPIPS' linear weights; {name} needs {len(architecture.taps)}, or none"
        )
    layers.load_state_dict(found)
    on_device = tuple(values.to(device) for values in linear)
    return FeatureNetwork(name, sha256(weights), architecture, layers.to(device).eval(), on_device)


class PerceptualFeatures:
    """An :class:`~voxpair.core.interfaces.Extractor` made of a feature network.

    Args:
        modality: of the cohorts; CT is seen through one window, each other volume through its own robust range.
    """

    def __init__(self, network: FeatureNetwork, modality: str) -> None:
        self.name, self.digest = network.name, network.digest
        self._network, self._modality = network, modality

    def features(self, case: Case) -> Mapping[str, np.ndarray]:
        """Return a vector (C,) float32 for each of "sagittal", "coronal" and "axial"."""
        slices = view_slices(case, self._modality, self._network.architecture.side, SLICES)
        return {
            view: self._network.maps(torch.from_numpy(shown))[-1].mean(dim=(0, 2, 3)).cpu().numpy()
            for view, shown in slices.items()
        }


def view_slices(case: Case, modality: str, side: int, count: int) -> dict[str, np.ndarray]:
    """Return ``count`` slices (N, side, side), float32 in [0, 1], for each view."""
    preprocessor = Preprocessor(PreprocessSettings(grid=(side,) * 3), case.label_table, modality)
    image = preprocessor.forward(replace(case, labels=None)).image
    chosen = (np.linspace(_MARGIN, 1 - _MARGIN, count) * (side - 1)).round().astype(int)
    return {view: np.moveaxis(image, axis, 0)[chosen] for view, axis in _AXES.items()}


def _renamed(state: Mapping[str, Tensor], renamed: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    found = {}
    for key, value in state.items():
        key = key.removeprefix("module.")  # left by data-parallel training
        for pattern, replacement in renamed:
            key = re.sub(pattern, replacement, key)
        found[key] = value
    return found


def _children(module: nn.Module, without: Sequence[str] = ()) -> nn.Sequential:
    """Return the layers of a network that runs its children in order, under their own names."""
    return nn.Sequential(OrderedDict((name, layer) for name, layer in module.named_children() if name not in without))


def _resnet50(models: ModuleType) -> nn.Sequential:
    return _children(models.resnet50(weights=None), ("avgpool", "fc"))


def _inception(models: ModuleType) -> nn.Sequential:
    network = models.inception_v3(weights=None, aux_logits=False, init_weights=False)
    return _children(network, ("avgpool", "dropout", "fc"))


def _alexnet(models: ModuleType) -> nn.Sequential:
    return models.alexnet(weights=None).features


def _squeezenet(models: ModuleType) -> nn.Sequential:
    return models.squeezenet1_1(weights=None).features


_FROM_LPIPS = (
    (r"^net\.slice\d+\.", ""),
    (r"^features\.", ""),
    (r"^lins\.", "ignored."),
    (r"^scaling_layer\.", "ignored."),
)
_RADIMAGENET = (
    (r"^backbone\.0\.", "conv1."),
    (r"^backbone\.1\.", "bn1."),
    *((rf"^backbone\.{level + 3}\.", f"layer{level}.") for level in (1, 2, 3, 4)),
)
_HALF = (0.5, 0.5, 0.5)
ARCHITECTURES: Mapping[str, Architecture] = {
    "radimagenet_resnet50": Architecture(_resnet50, mean=_HALF, std=_HALF, ignored=("fc.",), renamed=_RADIMAGENET),
    # torchvision's Inception was trained on inputs in [-1, 1]; its own weights ask for ImageNet's mean and undo it
    "imagenet_inception": Architecture(_inception, side=299, mean=_HALF, std=_HALF, ignored=("fc.", "AuxLogits.")),
    "imagenet_alexnet": Architecture(
        _alexnet, taps=("1", "4", "7", "9", "11"), ignored=("classifier.", "ignored."), renamed=_FROM_LPIPS
    ),
    "imagenet_squeezenet": Architecture(
        _squeezenet,
        taps=("1", "4", "7", "9", "10", "11", "12"),
        ignored=("classifier.", "ignored."),
        renamed=_FROM_LPIPS,
    ),
}

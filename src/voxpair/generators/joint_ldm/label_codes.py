"""Label codes: class indices as channels that a network can read and write, and back.

    code      channels    read back by            trained with
    one_hot   K           largest of K outputs    cross-entropy + soft Dice, rare classes weighted up
    rgb       3           nearest palette colour  L1 on the colours

``rgb`` is the papers' code: eight structures and background as colours (Ikuta et al. 2024, section 3.2, which gives
no colour table and no rule for the way back). With nine colours in three dimensions the straight line between two
codes passes near a third, so a blurred border between two structures reads as another one: the "red dots" that the
papers report. ``one_hot`` has no such line, and is the default.

Shapes: B batch, K classes with background, C channels, X Y Z volume axes.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F
from monai.losses import DiceLoss
from torch import Tensor, nn

from voxpair.core.errors import InputError

LabelCodeName = Literal["one_hot", "rgb"]


class LabelCode(nn.Module, ABC):
    """Base of the codes. ``channels`` is C; the methods are the three ways a code is used."""

    channels: int

    @abstractmethod
    def encode(self, classes: Tensor) -> Tensor:
        """Return float channels (B, C, X, Y, Z) for class indices (B, X, Y, Z)."""

    @abstractmethod
    def decode(self, output: Tensor) -> Tensor:
        """Return class indices (B, X, Y, Z), int64, for a network's output (B, C, X, Y, Z)."""

    @abstractmethod
    def loss(self, output: Tensor, classes: Tensor) -> Tensor:
        """Return a scalar, 0 for a perfect output; ``classes`` are int64 (B, X, Y, Z)."""


class OneHotCode(LabelCode):
    """One channel per class; the network's output is read as logits.

    Args:
        class_weights: (K,), above 0, of the cross-entropy; see :func:`inverse_root_weights`.

    >>> code = OneHotCode(torch.ones(3))
    >>> code.decode(code.encode(torch.tensor([[[[0, 2, 1]]]]))).tolist()
    [[[[0, 2, 1]]]]
    """

    def __init__(self, class_weights: Tensor) -> None:
        super().__init__()
        self.channels = len(class_weights)
        self.register_buffer("class_weights", class_weights.float())
        # Over the whole batch at once: a structure that one small crop lacks does not count as a failure.
        self._dice = DiceLoss(softmax=True, to_onehot_y=True, include_background=False, batch=True)

    def encode(self, classes: Tensor) -> Tensor:
        return F.one_hot(classes, self.channels).movedim(-1, 1).float()

    def decode(self, output: Tensor) -> Tensor:
        return output.argmax(1)

    def loss(self, output: Tensor, classes: Tensor) -> Tensor:
        logits = output.float()
        return F.cross_entropy(logits, classes, self.class_weights) + self._dice(logits, classes[:, None])


class PaletteCode(LabelCode):
    """A colour per class, background black.

    >>> PaletteCode(9).palette[[0, 1, 8]].tolist()
    [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.5, 0.0]]
    """

    channels = 3

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("palette", make_palette(classes))

    def encode(self, classes: Tensor) -> Tensor:
        return self.palette[classes].movedim(-1, 1)

    def decode(self, output: Tensor) -> Tensor:
        return self._distances(output.float()).argmin(-1)

    def loss(self, output: Tensor, classes: Tensor) -> Tensor:
        return F.l1_loss(output.float(), self.encode(classes))

    def _distances(self, output: Tensor) -> Tensor:
        return torch.cdist(output.movedim(1, -1), self.palette)


def make_label_code(name: LabelCodeName, classes: int, class_weights: Tensor | None = None) -> LabelCode:
    """Return a code for K = ``classes``; without ``class_weights`` all classes weigh the same."""
    if name == "rgb":
        return PaletteCode(classes)
    return OneHotCode(torch.ones(classes) if class_weights is None else class_weights)


def inverse_root_weights(voxels: Tensor) -> Tensor:
    """Return class weights proportional to 1 / sqrt(volume) with mean 1.

    Args:
        voxels: (K,), number of voxels of each class in the training set; a class that never occurs counts as one voxel.

    >>> inverse_root_weights(torch.tensor([400, 100, 25]))
    tensor([0.4286, 0.8571, 1.7143])
    """
    weights = voxels.clamp(min=1).double().rsqrt()
    return (weights / weights.mean()).float()


def make_palette(classes: int) -> Tensor:
    """Return distinct colours (K, 3) in [0, 1]: the corners of the cube, then points of the smallest lattice.

    Corners lie furthest apart; with more classes than corners, edge points come before faces and the inside,
    since orange is mistaken for a mixture of two other codes less often than grey.
    """
    if not 1 <= classes <= 256:
        raise InputError(f"a palette holds 1 to 256 classes, got {classes}")
    side = next(n for n in range(2, 8) if n**3 >= classes)
    lattice = [tuple(i / (side - 1) for i in point) for point in itertools.product(range(side), repeat=3)]

    def order(colour: tuple[float, ...]) -> tuple:
        between = sum(0 < value < 1 for value in colour)
        if between == 0:
            return between, sum(colour), [-value for value in colour]
        return between, abs(sum(colour) - 1.5), [-value for value in colour]

    return torch.tensor(sorted(lattice, key=order)[:classes])

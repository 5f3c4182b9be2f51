"""Volumes as stacks of slices, in three views, and batches of real slices.

Takes prepared volumes; gives slices to the networks that see one view each, and takes slices back.

    view        axis      a slice is
    sagittal    X, 0      (Y, Z)
    coronal     Y, 1      (X, Z)
    axial       Z, 2      (X, Y)

Shapes: S slices of a volume, B slices of a batch, C channels, H W axes of a slice, X Y Z axes of a volume.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from voxpair.cohorts.datasets import PreparedCohort, pick
from voxpair.core.errors import InputError, RunError
from voxpair.core.run import derive_seed

View = Literal["axial", "coronal", "sagittal"]
AXES: dict[View, int] = {"axial": 2, "coronal": 1, "sagittal": 0}


def to_slices(volume: Tensor, view: View) -> Tensor:
    """Return (C, X, Y, Z) as a view of its slices, (S, C, H, W).

    >>> to_slices(torch.zeros(1, 4, 5, 6), "coronal").shape
    torch.Size([5, 1, 4, 6])
    """
    return volume.movedim(AXES[view] + 1, 0)


def from_slices(slices: Tensor, view: View) -> Tensor:
    """Return (S, C, H, W) as the volume (C, X, Y, Z) that :func:`to_slices` cuts into them."""
    return slices.movedim(0, AXES[view] + 1)


def padded(array: np.ndarray, factor: int) -> np.ndarray:
    """Repeat the far edge of every axis until its length is a multiple of ``factor``.

    >>> padded(np.arange(3), 4)
    array([0, 1, 2, 2])
    """
    return np.pad(array, [(0, -length % factor) for length in array.shape], mode="edge")


def labelled(prepared: PreparedCohort) -> PreparedCohort:
    """Return the cases that have labels.

    Raises:
        InputError: none has.
    """
    kept = [i for i, facts in enumerate(prepared.facts) if facts["has_labels"]]
    if not kept:
        raise InputError(
            f"none of the {len(prepared)} training cases has labels, so there is nothing to condition images on: "
            "annotate some, or check the split"
        )
    return PreparedCohort(
        tuple(prepared.files[i] for i in kept), tuple(prepared.facts[i] for i in kept), prepared.label_table
    )


@dataclass(frozen=True)
class SliceBatches:
    """Random slices of every view; cases in shuffled epochs, positions along the axis uniform.

    Args:
        batch_size: slices of each view per update and device.
        factor: sides are padded to a multiple of this.
        seed: of the order of cases and the choice of slices.
    """

    prepared: PreparedCohort
    batch_size: int
    factor: int
    seed: int

    def batch(self, update: int, rank: int = 0, world_size: int = 1) -> dict[str, Any]:
        """Return for every view ``VIEW_image`` (B, 1, H, W) in [0, 1] and ``VIEW_labels`` (B, 1, H, W) long; ``names``.

        A case without labels has zeros there.

        Raises:
            RunError: the cases have different shapes.
        """
        batch: dict[str, Any] = {f"{view}_{word}": [] for view in AXES for word in ("image", "labels")}
        names, shapes = [], set()
        for position in range(rank * self.batch_size, (rank + 1) * self.batch_size):
            index = pick(update, position, len(self.prepared), self.seed, batch_size=self.batch_size * world_size)
            case = self.prepared[index]
            random = np.random.default_rng(derive_seed("slice", self.seed, update, position))
            names.append(case.name)
            shapes.add(case.image.shape)
            for view, axis in AXES.items():
                place = int(random.integers(case.image.shape[axis]))
                image = padded(np.take(case.image, place, axis), self.factor)
                labels = np.zeros(image.shape, np.uint8)
                if case.labels is not None:
                    labels = padded(np.take(case.labels, place, axis), self.factor)
                batch[f"{view}_image"].append(image)
                batch[f"{view}_labels"].append(labels.astype(np.int64))
        if len(shapes) > 1:
            raise RunError(f"cases of different shapes cannot share a batch of slices: {sorted(shapes)}")
        return {"names": names} | {key: torch.from_numpy(np.stack(slices))[:, None] for key, slices in batch.items()}

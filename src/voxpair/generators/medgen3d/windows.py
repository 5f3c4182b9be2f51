"""Windows of consecutive slices: how they are drawn from training volumes, and in which order they fill a new one.

Takes prepared cases with labels; gives batches for MC-DPM, and the plan of a walk over a volume.

    mode             known slices
    forward          the first n: the window goes on upwards from what is there
    backward         the last n
    unconditional    none

Source: Han et al. 2023 (MedGen3D), section 3.1; the paper has no rule for a depth that windows do not divide.

Shapes: B batch, m slices of a window, n known slices of it, D depth, X Y Z volume axes, x y the network's in plane.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from voxpair.cohorts.datasets import PreparedCohort, pick
from voxpair.cohorts.geometry import resample_classes
from voxpair.core.errors import InputError
from voxpair.core.run import derive_seed

if TYPE_CHECKING:
    from voxpair.generators.medgen3d.mask_sequence import MaskSequenceSettings


Window = tuple[int, list[bool]]  # first slice, and which of its slices are known


class WindowBatches:
    """Windows of labelled training volumes: volume, depth, place and mode depend on the update and its seed alone.

    Volumes of another in-plane size than the network's are resized once and kept in memory, a byte per voxel.
    """

    def __init__(self, training: PreparedCohort, settings: MaskSequenceSettings, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.names, self.volumes, sizes = [], [], set()
        for case in training:
            if case.labels is not None:
                self.names.append(case.name)
                self.volumes.append(_at_size(case.labels, settings.slice_size))
                sizes.add(case.labels.shape[:2])
        if not self.volumes:
            raise InputError("no training case has labels, so there are no masks to learn: annotate some")
        if len(sizes) > 1:
            raise InputError(f"training volumes have slices of different sizes, {sorted(sizes)}; crop them to a grid")
        self.in_plane = sizes.pop()
        if any(n % settings.downsampling for n in self.volumes[0].shape[:2]):
            raise InputError(
                f"slices of {self.volumes[0].shape[:2]} voxels must have sides that are multiples of "
                f"{settings.downsampling}: change mask_sequence.slice_size or the number of mask_sequence.channels"
            )
        depths = [self._depth(volume.shape[2], factor) for volume in self.volumes for factor in settings.depth_range]
        self.depths = min(depths), max(depths)
        if self.depths[0] < settings.window:
            raise InputError(
                f"a training volume has {self.depths[0]} slices, a window needs {settings.window}: "
                "take a smaller mask_sequence.window or a finer grid"
            )

    def batch(self, update: int, rank: int = 0, world_size: int = 1) -> dict[str, Any]:
        """Return ``slices`` (B, m, x, y), ``known`` (B, m) bool, ``position`` (B, 2) and ``names``."""
        size = self.settings.loop.batch_size
        items = [self._item(update, place, size * world_size) for place in range(rank * size, (rank + 1) * size)]
        names, slices, known, position = zip(*items)
        return {
            "slices": torch.stack(slices),
            "known": torch.stack(known),
            "position": torch.stack(position),
            "names": list(names),
        }

    def fullest(self) -> float:
        """Return the relative height of the slice with most structures, mean over volumes.

        Of several it is the one with most labels, of several of these the middle one.
        """
        heights = (np.arange(self.depths[1]) + 0.5) / self.depths[1]
        structures, labelled = [], []
        for volume in self.volumes:
            slices = np.moveaxis(volume, 2, 0)[(heights * volume.shape[2]).astype(int)]
            structures.append([np.count_nonzero(np.unique(one)) for one in slices])
            labelled.append((slices != 0).mean((1, 2)))
        scores = list(zip(np.mean(structures, 0), np.mean(labelled, 0)))
        best = [height for height, score in zip(heights, scores) if score == max(scores)]
        return float(best[len(best) // 2])

    def _item(self, update: int, place: int, batch_size: int) -> tuple[str, Tensor, Tensor, Tensor]:
        s = self.settings
        index = pick(update, place, len(self.volumes), self.seed, batch_size=batch_size)
        volume = self.volumes[index]
        random = np.random.default_rng(derive_seed("window", self.seed, update, place))
        depth = self._depth(volume.shape[2], random.uniform(*s.depth_range))
        z = int(random.integers(depth - s.window + 1))
        # Slice i of a volume squeezed or stretched to ``depth`` slices lies in slice (i + 1/2) D / depth of the volume.
        taken = ((z + np.arange(s.window) + 0.5) * volume.shape[2] / depth).astype(int)
        slices = torch.from_numpy(np.moveaxis(volume[:, :, taken], 2, 0).copy())
        known = torch.zeros(s.window, dtype=torch.bool)
        mode = random.choice(3, p=s.modes)
        if mode < 2:
            known[slice(None, s.known) if mode == 0 else slice(-s.known, None)] = True
        return self.names[index], slices, known, relative_position(z, depth, s.window)

    def _depth(self, slices: int, factor: float) -> int:
        return round(slices * factor)


def plan_windows(depth: int, start: int, window: int, known: int) -> list[Window]:
    """Return first slice and known slices of each window, in the order in which a volume is filled.

    >>> [(z, "".join("?k"[k] for k in known)) for z, known in plan_windows(11, 3, window=4, known=1)]
    [(3, '????'), (6, 'k???'), (7, 'k???'), (0, '???k')]
    """
    new = window - known
    forward, backward = [True] * known + [False] * new, [False] * new + [True] * known
    plan = [(start, [False] * window)]
    end = start + window
    while end < depth:
        z = min(end - known, depth - window)
        plan.append((z, forward))
        end = z + window
    while start > 0:
        start = max(start - new, 0)
        plan.append((start, backward))
    return plan


def relative_position(z: int, depth: int, window: int) -> Tensor:
    """Return z~: first slice and end of a window as parts of the depth, (2,)."""
    return torch.tensor([z / depth, (z + window) / depth])


def _at_size(labels: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Return class indices (x, y, Z) of a label volume (X, Y, Z); untouched, and on the disk, where the size fits."""
    x, y, depth = labels.shape
    if size is None or size == (x, y):
        return labels
    return resample_classes(np.asarray(labels), (*size, depth), (x / size[0], y / size[1], 1.0))

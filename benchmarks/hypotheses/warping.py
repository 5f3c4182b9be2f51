"""Images of few patients bent onto the anatomy of others: real texture and labels that are exact, in other shapes.

Takes annotated cases and label maps of strangers; gives a case a stranger: a case with much the same labels, moved so
that its centre of mass is theirs, and bent until the labels lie on each other. Its labels are bent with its image, so
they fit it as well as a reader's do.

    symbol   here       meaning
    S_k      source     class k of a case, in {0, 1}, smoothed by a Gaussian of 2, then 1 voxels
    T_k      target     the same of the stranger
    v        velocity   stationary velocity, every third voxel, made continuous by interpolation
    phi      exp(v)     by scaling and squaring, in 2^5 steps (Arsigny et al. 2006)

    minimised    1000 mean (S_k(phi(x)) - T_k(x))^2 + 0.1 sum of mean squared differences of neighbouring v

Shapes: K classes, X Y Z volume axes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from voxpair.cohorts.cohort import Cohort
from voxpair.cohorts.datasets import PreparedCase
from voxpair.cohorts.preprocess import Preprocessor
from voxpair.core.case import Case
from voxpair.core.run import derive_seed

SMOOTHINGS, UPDATES, RATE, STIFFNESS = (2.0, 1.0), 25, 0.25, 0.1
NEAREST = 4  # a stranger gets the image of one of so many whose labels are most like his


def warped(few: Cohort, others: Cohort, preprocessor: Preprocessor, seed: int = 0) -> Iterator[Case]:
    """Yield a case for each of ``others``: its labels, and the image of one of ``few`` bent onto them."""
    sources = [preprocessor.forward(case) for case in few]
    classes = few.label_table.classes
    maps = [_one_hot(source, classes) for source in sources]
    for stranger in others:
        prepared = preprocessor.forward(stranger)
        target = _one_hot(prepared, classes)
        moves = [_centre(one) - _centre(target) for one in maps]
        alike = [_dice(_sample(one, _constant(move, one)), target) for one, move in zip(maps, moves)]
        random = np.random.default_rng(derive_seed("whose image", seed, stranger.name))
        chosen = int(random.choice(np.argsort(alike)[-NEAREST:]))
        field = bend(maps[chosen], target, moves[chosen])
        image = torch.from_numpy(np.asarray(sources[chosen].image, np.float32))[None, None]
        yield preprocessor.restore(
            _sample(image, field)[0, 0].numpy(),
            _sample(maps[chosen], field).argmax(1)[0].numpy().astype(np.uint8),
            prepared.geometry,
            name=stranger.name,
            patient=stranger.patient,
            source="synthetic",
        )


def bend(source: Tensor, target: Tensor, move: Tensor) -> Tensor:
    """Return the field (1, 3, X, Y, Z), in voxels, that brings ``source`` onto ``target``, both (1, K, X, Y, Z)."""
    shape = source.shape[2:]
    velocity = torch.zeros(1, 3, *(n // 3 + 1 for n in shape), requires_grad=True)
    optimizer = torch.optim.Adam([velocity], lr=RATE)

    def field() -> Tensor:
        fine = F.interpolate(velocity, size=shape, mode="trilinear", align_corners=True) / 2**5
        for _ in range(5):
            fine = fine + _sample(fine, fine)
        return fine + _constant(move, source)

    for smoothing in SMOOTHINGS:
        moving, fixed = (_smooth(one[:, 1:], smoothing) for one in (source, target))
        for _ in range(UPDATES):
            optimizer.zero_grad()
            apart = 1000 * (_sample(moving, field()) - fixed).square().mean()
            stiff = sum(velocity.diff(dim=axis).square().mean() for axis in (2, 3, 4))
            (apart + STIFFNESS * stiff).backward()
            optimizer.step()
    with torch.no_grad():
        return field()


def _one_hot(case: PreparedCase, classes: int) -> Tensor:
    labels = torch.from_numpy(np.asarray(case.labels, np.int64))
    return F.one_hot(labels, classes).movedim(-1, 0).float()[None]


def _centre(one_hot: Tensor) -> Tensor:
    """Return the centre of mass (3,) of all structures, in voxels."""
    mass = one_hot[0, 1:].sum(0)
    return (mass * _grid(one_hot)[0]).flatten(1).sum(1) / mass.sum()


def _constant(move: Tensor, like: Tensor) -> Tensor:
    return move.reshape(1, 3, 1, 1, 1).expand(1, 3, *like.shape[2:])


def _grid(volume: Tensor) -> Tensor:
    axes = (torch.arange(n, dtype=torch.float32) for n in volume.shape[2:])
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


def _sample(volume: Tensor, field: Tensor) -> Tensor:
    """Return ``volume`` (1, K, X, Y, Z) at x + field(x), linear between voxels and constant beyond the border."""
    last = torch.tensor(volume.shape[2:], dtype=torch.float32).reshape(1, 3, 1, 1, 1) - 1
    places = (_grid(volume) + field) / last * 2 - 1
    return F.grid_sample(volume, places.movedim(1, -1).flip(-1), padding_mode="border", align_corners=True)


def _smooth(volume: Tensor, sd_voxels: float) -> Tensor:
    reach = math.ceil(3 * sd_voxels)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sd_voxels) ** 2)
    kernel, channels = kernel / kernel.sum(), volume.shape[1]
    for axis in range(3):
        shape, pad = [1, 1, 1, 1, 1], [0] * 6
        shape[2 + axis], pad[2 * (2 - axis)], pad[2 * (2 - axis) + 1] = -1, reach, reach
        volume = F.conv3d(
            F.pad(volume, pad, mode="replicate"), kernel.reshape(shape).repeat(channels, 1, 1, 1, 1), groups=channels
        )
    return volume


def _dice(one: Tensor, other: Tensor) -> float:
    """Return the mean Dice over structures of two soft one-hot maps (1, K, X, Y, Z)."""
    both = (one[:, 1:] * other[:, 1:]).sum((0, 2, 3, 4))
    return float((2 * both / (one[:, 1:] + other[:, 1:]).sum((0, 2, 3, 4)).clamp(min=1)).mean())

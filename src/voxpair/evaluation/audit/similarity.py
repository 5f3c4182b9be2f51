"""How alike are two scans once one is laid over the other? Voxels and label maps after affine alignment.

Takes volumes on one small grid; gives, for each pair, the affine map that lays the second over the first, the
correlation of their voxels and the Dice of their structures there. A copy that was shifted, turned, scaled, mirrored
or dimmed is brought back before it is compared, and so is every pair of strangers: how alike strangers become is
measured, not assumed.

    step      grid    what
    pattern   full    band-pass: noise below and the broad shape that all patients share above are taken away
    coarse    half    correlation over all shifts up to a fifth of the volume, and mirrored (one Fourier product a pair)
    align     half    Gauss-Newton on twelve affine parameters from the coarse start, all candidates at a time
              full    the same for the best of them
    overlap   full    Dice per structure under the same map

    symbol   here      meaning
    T        query     pattern of the scan in question, the template
    I        others    patterns of the scans it is compared with
    W        maps      p -> A p + b, position in the query to position in the other scan
    J        slopes    dT/dp_i p_j and dT/dp_i: what a small affine change does to the template

Source: inverse compositional alignment, Baker & Matthews 2004, Int. J. Comput. Vis. 56:221, Eq. 27-36, with voxels
normalised to mean 0 and deviation 1 as in normalised cross-correlation.

Positions run from -1 to 1 along each axis and count from the last (torch's convention), so that a map holds on any
grid of the same field of view. Shapes: N scans, k candidates, K classes, X Y Z volume axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

FARTHEST_SHIFT = 0.2
"""Largest shift that the coarse step tries, as a fraction of each axis."""

_BAND = (0.8, 5.0)  # voxels: Gaussians whose difference is the pattern
_LEAST_OVERLAP = 0.5  # of the query's voxels; less shared ground, and a correlation means little
_REFINED = 4  # candidates that are aligned on the full grid too


@dataclass(frozen=True, eq=False)
class Sketch:
    """What the coarse step needs of one scan, small enough to keep for every scan.

    Args:
        spectrum: (X/2, Y/2, Z/4 + 1) complex64, Fourier transform of the pattern, tapered and of length 1.
        labels: (K - 1, X/4, Y/4, Z/4) float32, shares of the structures about their common centre; None without.
        centre: (3,) of all structures, as a position; zeros without labels.
    """

    spectrum: Tensor
    labels: Tensor | None
    centre: Tensor


def pattern(image: np.ndarray) -> Tensor:
    """Return the band-passed image, (X, Y, Z) float32 with mean 0 and deviation 1; zeros for a flat image.

    >>> bright = np.random.default_rng(0).random((16, 16, 16)).astype(np.float32)
    >>> bool(torch.allclose(pattern(bright), pattern(0.5 * bright + 0.2), atol=1e-4))
    True
    """
    fine, broad = (ndimage.gaussian_filter(np.asarray(image, np.float32), sigma, mode="nearest") for sigma in _BAND)
    band = torch.from_numpy(fine - broad)
    return (band - band.mean()) / band.std().clamp(min=1e-6)


def sketch(image: np.ndarray, labels: np.ndarray | None, classes: int) -> Sketch:
    """Reduce a scan to what :func:`coarse_voxels` and :func:`coarse_labels` compare.

    Args:
        image: (X, Y, Z), each axis a multiple of 4.
        labels: (X, Y, Z) class indices below ``classes``, or None.
    """
    half = F.avg_pool3d(pattern(image)[None], 2)[0]
    for axis, size in enumerate(half.shape):
        taper = torch.hann_window(size + 2, periodic=False)[1:-1].sqrt()
        half = half * taper.reshape([-1 if i == axis else 1 for i in range(3)])
    spectrum = torch.fft.rfftn(half / half.norm().clamp(min=1e-6))
    if labels is None or not labels.any():
        return Sketch(spectrum, None, torch.zeros(3))
    inside = np.argwhere(labels > 0)
    middle = (np.array(labels.shape) - 1) / 2
    moved = np.rint(inside.mean(0) - middle).astype(int)
    about = torch.from_numpy(np.roll(labels, -moved, (0, 1, 2)).astype(np.int64))
    shares = F.avg_pool3d(F.one_hot(about, classes).movedim(-1, 0)[1:].float(), 4)
    return Sketch(spectrum, shares, torch.tensor(moved / (middle + 0.5), dtype=torch.float32).flip(0))


def coarse_voxels(query: Sketch, spectra: Tensor) -> tuple[Tensor, Tensor]:
    """Compare one scan with many over all shifts, as it is and mirrored left to right.

    Args:
        spectra: (N, X/2, Y/2, Z/4 + 1), of the others.

    Returns:
        scores: (N,) largest correlation of the patterns.
        maps: (N, 3, 4) the shift, and the mirror if that was better.
    """
    z = 2 * (query.spectrum.shape[-1] - 1)
    shape = (*query.spectrum.shape[:2], z)
    straight = torch.fft.irfftn(query.spectrum, shape)
    near = [torch.tensor([s for s in range(-n, n + 1) if abs(s) <= FARTHEST_SHIFT * n]) for n in shape]
    tried = []
    for side in (straight, straight.flip(0)):
        products = torch.fft.rfftn(side).conj() * spectra
        found = torch.fft.irfftn(products, shape, dim=(1, 2, 3))
        for axis, shifts in enumerate(near):
            found = found.index_select(axis + 1, shifts % shape[axis])
        tried.append(found.flatten(1).max(1))
    scores = torch.stack([found.values for found in tried])
    mirrored = scores.argmax(0)
    places = torch.stack([found.indices for found in tried]).gather(0, mirrored[None])[0]
    steps = torch.stack(torch.unravel_index(places, [len(shifts) for shifts in near]), 1)
    shift = torch.stack([near[i][steps[:, i]] * 2 / shape[i] for i in range(3)], 1).flip(1)
    return scores.amax(0), _maps(mirrored.bool(), shift)


def coarse_labels(query: Sketch, others: list[Sketch]) -> tuple[Tensor, Tensor]:
    """Compare the structures of one scan with those of many, centre on centre; scans without labels score -1.

    Returns:
        scores: (N,) soft Dice over all structures.
        maps: (N, 3, 4), as of :func:`coarse_voxels`.
    """
    scores, mirrored = torch.full((len(others),), -1.0), torch.zeros(len(others), dtype=torch.bool)
    known = [i for i, other in enumerate(others) if other.labels is not None]
    if query.labels is not None and known:
        shares = torch.stack([others[i].labels for i in known]).flatten(1)
        sizes = query.labels.sum() + shares.sum(1)
        sides = torch.stack([side.flatten() for side in (query.labels, query.labels.flip(1))])
        shared = torch.stack([torch.minimum(side, shares).sum(1) for side in sides])
        best = (2 * shared / sizes).max(0)
        scores[known], mirrored[known] = best.values, best.indices.bool()
    centres = torch.stack([other.centre for other in others])
    maps = _maps(mirrored, torch.zeros(len(others), 3))
    maps[:, :, 3] = centres - (maps[:, :, :3] @ query.centre)
    return scores, maps


def align(query: Tensor, others: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Lay each of ``others`` over the query as well as an affine map can, starting from ``maps``.

    Args:
        query: (X, Y, Z) pattern.
        others: (k, X, Y, Z) patterns.
        maps: (k, 3, 4) starts.

    Returns:
        scores: (k,) correlation in [-1, 1] over the voxels that both have; -1 where the two share less than half of
            the query.
        maps: (k, 3, 4) that reach them.
    """
    half, others_half = F.avg_pool3d(query[None], 2)[0], F.avg_pool3d(others, 2)
    _, maps = _descend(half, others_half, maps, steps=8)
    scores, _ = _compare(query, others, maps, _positions(query.shape))
    best = scores.topk(min(_REFINED, len(scores))).indices  # the full grid costs eight times as much
    refined = _descend(query, others[best], maps[best], steps=6)
    return scores.index_copy(0, best, refined[0]), maps.index_copy(0, best, refined[1])


def overlap(query: np.ndarray, others: np.ndarray, maps: Tensor, classes: int) -> np.ndarray:
    """Return the mean Dice over the structures that either has, others laid over the query: (k,) in [0, 1].

    Args:
        query: (X, Y, Z) class indices.
        others: (k, X, Y, Z) class indices.
    """
    laid = lay_over(torch.from_numpy(np.asarray(others, np.float32)), maps, query.shape, "nearest").numpy()
    dice = np.full((len(others), classes - 1), np.nan)
    for structure in range(1, classes):
        here, there = query == structure, laid == structure
        both = here.sum() + there.sum((1, 2, 3))
        shared = (here & there).sum((1, 2, 3))
        dice[:, structure - 1] = np.divide(2 * shared, both, out=np.full(len(others), np.nan), where=both > 0)
    defined = np.isfinite(dice)
    return np.where(defined, dice, 0).sum(1) / np.maximum(defined.sum(1), 1)


def lay_over(volumes: Tensor, maps: Tensor, shape: tuple[int, ...], mode: str = "bilinear") -> Tensor:
    """Return volumes (k, X, Y, Z) under ``maps`` on a grid of ``shape``; 0 where they have nothing."""
    grid = F.affine_grid(maps, (len(volumes), 1, *shape), align_corners=False)
    return F.grid_sample(volumes[:, None], grid, mode=mode, align_corners=False)[:, 0]


def _maps(mirrored: Tensor, shift: Tensor) -> Tensor:
    """Return (N, 3, 4) maps: the first volume axis, torch's last, turned round where ``mirrored``; then a shift."""
    linear = torch.eye(3).repeat(len(mirrored), 1, 1)
    linear[:, 2, 2] = torch.where(mirrored, -1.0, 1.0)
    return torch.cat([linear, shift.float()[:, :, None]], 2)


def _descend(template: Tensor, others: Tensor, maps: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Walk ``steps`` Gauss-Newton steps from ``maps``; return the best scores (k,) met on the way, and their maps."""
    position = _positions(template.shape)
    slopes = _slopes(template, position)
    weights = slopes @ slopes.T
    inverse = torch.linalg.inv(weights + (1e-3 * weights.trace() / 12 + 1e-6) * torch.eye(12))
    best, errors = _compare(template, others, maps, position)
    kept = maps
    for _ in range(steps):
        maps = _compose(maps, errors @ slopes.T @ inverse)
        scores, errors = _compare(template, others, maps, position)
        better = scores > best
        best, kept = torch.where(better, scores, best), torch.where(better[:, None, None], maps, kept)
    return best, kept


def _positions(shape: tuple[int, ...]) -> Tensor:
    """Return the position of each voxel, (3, V), axes counted from the last."""
    axes = [(torch.arange(n) + 0.5) * 2 / n - 1 for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).flip(0).flatten(1)


def _slopes(template: Tensor, position: Tensor) -> Tensor:
    """Return the change of each voxel with each of the twelve parameters, (12, V): nine of A row by row, then b."""
    gradient = torch.stack([g * n / 2 for g, n in zip(torch.gradient(template), template.shape)]).flip(0).flatten(1)
    linear = gradient[:, None] * position[None]
    return torch.cat([linear.flatten(0, 1), gradient])


def _compare(template: Tensor, others: Tensor, maps: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
    """Return the correlation (k,) over shared voxels, and what is left of each other scan there (k, V)."""
    there = torch.baddbmm(maps[:, :, 3:], maps[:, :, :3], position.expand(len(maps), -1, -1))  # (k, 3, V)
    inside = (there.abs().amax(1) <= 1).float()
    grid = there.mT.reshape(len(maps), *template.shape, 3)
    laid = F.grid_sample(others[:, None], grid, align_corners=False).flatten(1)
    count = inside.sum(1, keepdim=True).clamp(min=1)

    def normalised(volume: Tensor) -> tuple[Tensor, Tensor]:
        centred = (volume - (volume * inside).sum(1, keepdim=True) / count) * inside
        spread = (centred.square().sum(1, keepdim=True) / count).sqrt().clamp(min=1e-6)
        return centred / spread, spread

    (here, spread), (other, _) = normalised(template.flatten()[None]), normalised(laid)
    scores = (here * other).sum(1) / count[:, 0]
    enough = count[:, 0] >= _LEAST_OVERLAP * template.numel()
    return torch.where(enough, scores, -1.0), (other - here) * spread


def _compose(maps: Tensor, change: Tensor) -> Tensor:
    """Return W after the inverse of the small change (k, 12) of the template (Baker & Matthews, Eq. 36)."""
    small = torch.eye(4).repeat(len(maps), 1, 1)
    small[:, :3, :3] += change[:, :9].reshape(-1, 3, 3)
    small[:, :3, 3] += change[:, 9:]
    whole = torch.eye(4).repeat(len(maps), 1, 1)
    whole[:, :3] = maps
    return (whole @ torch.linalg.inv(small))[:, :3]

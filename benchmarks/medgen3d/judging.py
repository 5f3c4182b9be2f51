"""What a row of table E1 is measured by, beyond ``evaluation.pairs``: slices alone, and the step to the next slice.

Takes images on the grid in [0, 1], or slices of three views; gives measures beside their real-against-real floor.

    measure                          of                                               good is
    slice_frechet, slice_kid         slices of each view, and the mean of the views   lower
    slice_precision, _recall, ...    the same, mean of the views                      higher
    grey_distance                    Wasserstein-1 distance of the grey values, in    lower
                                     shares of the networks' window
    detail_ratio                     detail finer than two pixels, over that of real  as floor, about 1
    label_step                       share of voxels whose class the next axial slice changes
    label_jump                       the largest such share of a case over its median: seams stand out
    image_step, image_jump           the same of the mean absolute difference of grey values
                                                                                      as floor

Why slices: Han et al. 2023 measure slices of three views, and one baseline makes nothing else. A slice is shown to the
encoder of a segmenter of volumes as a slab in which it is repeated, real and made slices alike. Of every case the same
number of random slices is seen; draws and floors are over cases, so that slices of one case never stand on two sides.

The encoder normalises every channel, so it does not see that all of an image is darker; grey_distance does.
Detail is the median over the foreground of |x - G x|, G a Gaussian of SD 1 pixel: the median does not see the edges.

Shapes: S slices of a view, H W axes of a slice, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from rows import SLICES
from scipy.ndimage import gaussian_filter
from scipy.stats import wasserstein_distance

from voxpair.core.run import derive_seed
from voxpair.evaluation.pairs import distances
from voxpair.evaluation.pairs.measures import Measure, compare_means, compare_sets
from voxpair.generators.medgen3d.views import AXES
from voxpair.networks.backbones import encoder_features, legal_patch
from voxpair.segmentation.segmenter import Segmenter

SLAB = 16
"""Voxels that a slice is repeated for: the encoder's deepest map still has several."""
QUANTILES = (np.arange(100) + 0.5) / 100
_FOREGROUND = 0.1
_BATCH = 16


@dataclass(frozen=True, eq=False)
class SliceFacts:
    """Of one case: features (S, D) and detail (S,) of each view, and quantiles (Q,) of the grey values of all slices.

    Detail is NaN where a slice has no foreground.
    """

    features: Mapping[str, np.ndarray]
    detail: Mapping[str, np.ndarray]
    levels: np.ndarray


def cut(image: np.ndarray, name: str, seed: int) -> dict[str, np.ndarray]:
    """Return random slices (S, H, W) of each view of a volume."""
    found = {}
    for view, axis in AXES.items():
        random = np.random.default_rng(derive_seed("cut", name, view, seed))
        places = random.integers(image.shape[axis], size=SLICES)
        found[view] = np.moveaxis(np.take(image, places, axis), axis, 0)
    return found


def describe(slices: Mapping[str, np.ndarray], judge: Segmenter) -> SliceFacts:
    """Return what is kept of the slices (S, H, W) of each view."""
    return SliceFacts(
        {view: _features(found, view, judge) for view, found in slices.items()},
        {view: np.array([_detail(one) for one in found]) for view, found in slices.items()},
        np.quantile(np.concatenate([found.ravel() for found in slices.values()]), QUANTILES),
    )


@torch.inference_mode()
def _features(slices: np.ndarray, view: str, judge: Segmenter) -> np.ndarray:
    """Return mean and SD (S, D) of the encoder's two deepest maps."""
    axis, backbone = AXES[view], judge.settings.backbone
    device = next(judge.network.parameters()).device
    found = []
    for part in torch.from_numpy(np.ascontiguousarray(slices, np.float32)).split(_BATCH):
        slabs = part.unsqueeze(axis + 1).repeat_interleave(SLAB, axis + 1)  # (B, X, Y, Z)
        padding = [(0, whole - side) for side, whole in zip(slabs.shape[1:], legal_patch(backbone, slabs.shape[1:]))]
        slabs = np.pad(slabs.numpy(), [(0, 0), *padding], mode="edge")
        maps = encoder_features(judge.network, backbone, torch.from_numpy(slabs)[:, None].to(device))
        pooled = [pool for found_map in maps for pool in _pool(found_map.float().flatten(2))]
        found.append(torch.cat(pooled, 1).cpu().numpy())
    return np.concatenate(found)


def _pool(voxels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return voxels.mean(2), voxels.std(2, correction=0)


def _detail(plane: np.ndarray) -> float:
    smooth = gaussian_filter(plane, 1.0)
    inside = smooth > _FOREGROUND
    return float(np.median(np.abs(plane - smooth)[inside])) if inside.sum() >= 50 else np.nan


def compare_slices(synthetic: Sequence[SliceFacts], real: Sequence[SliceFacts], seed: int) -> list[Measure]:
    """Return the measures of slices; every feature is counted in SDs of all real slices."""
    scales = {}
    for view in AXES:
        there = np.concatenate([facts.features[view] for facts in real])
        spread = there.std(0)
        scales[view] = there.mean(0), np.maximum(spread, 0.1 * np.sqrt((spread**2).mean()) or 1.0)

    def of_view(distance: Callable[..., float], view: str, made: list[SliceFacts], there: list[SliceFacts]) -> float:
        mean, spread = scales[view]
        return distance(
            *((np.concatenate([facts.features[view] for facts in side]) - mean) / spread for side in (made, there))
        )

    def over_views(distance: Callable[..., float], made: list[SliceFacts], there: list[SliceFacts]) -> float:
        return float(np.mean([of_view(distance, view, made, there) for view in AXES]))

    measure = partial(compare_sets, "fidelity", synthetic=synthetic, real=real, seed=seed)
    found = []
    for distance in (distances.frechet, distances.kid):
        name = f"slice_{distance.__name__}"
        found.append(measure(name, partial(over_views, distance)))
        found += [measure(name, partial(of_view, distance, view), view=view) for view in AXES]
    for share in (distances.precision, distances.recall, distances.density, distances.coverage):
        found.append(measure(f"slice_{share.__name__}", partial(over_views, share), better="higher"))
    found.append(compare_sets("texture", "grey_distance", _grey_distance, synthetic, real, seed=seed))
    found.append(compare_sets("texture", "detail_ratio", _ratio, synthetic, real, better="floor", seed=seed))
    return found


def _grey_distance(made: Sequence[SliceFacts], there: Sequence[SliceFacts]) -> float:
    return float(wasserstein_distance(*(np.concatenate([facts.levels for facts in side]) for side in (made, there))))


def _ratio(made: Sequence[SliceFacts], there: Sequence[SliceFacts]) -> float:
    """Return the detail of the one side over that of the other, mean over the views."""
    ours, theirs = ([_median(side, view) for view in AXES] for side in (made, there))
    return float(np.mean(np.divide(ours, theirs)))


def _median(side: Sequence[SliceFacts], view: str) -> float:
    return float(np.nanmedian(np.concatenate([facts.detail[view] for facts in side])))


@dataclass(frozen=True)
class Steps:
    """Mean change from one axial slice to the next, and the largest over the median; None where nothing changes."""

    step: float
    jump: float


def describe_steps(image: np.ndarray, labels: np.ndarray | None) -> dict[str, Steps]:
    """Return the steps of grey values, and of classes where there are labels.

    >>> image = np.zeros((2, 2, 5)); image[:, :, 1:] = [0.1, 0.2, 0.3, 0.7]
    >>> found = describe_steps(image, None)["image"]
    >>> round(found.step, 3), round(found.jump, 3)
    (0.175, 4.0)
    """
    found = {"image": _steps(np.abs(np.diff(image, axis=2)))}
    if labels is not None:
        found["label"] = _steps(np.diff(labels.astype(int), axis=2) != 0)
    return found


def _steps(changes: np.ndarray) -> Steps:
    by_slice = changes.mean((0, 1))
    middle = float(np.median(by_slice))
    return Steps(float(by_slice.mean()), float(by_slice.max()) / middle if middle else np.nan)


def compare_steps(
    synthetic: Sequence[Mapping[str, Steps]], real: Sequence[Mapping[str, Steps]], seed: int
) -> list[Measure]:
    """Return the mean of every number over the cases of each side."""
    found = []
    for what in sorted(set(synthetic[0]) & set(real[0])):
        for number in ("step", "jump"):
            sides = ([getattr(facts[what], number) for facts in side] for side in (synthetic, real))
            found.append(compare_means("texture", f"{what}_{number}", *sides, seed=seed))
    return found

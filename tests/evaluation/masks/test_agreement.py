"""Agreement of two masks: closed forms, MONAI's numbers, and every way to be empty."""

import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
from scipy import ndimage

from voxpair.core.errors import InputError
from voxpair.evaluation.masks.agreement import Agreement, agreement


def ball(radius_mm, centre_mm=(0.0, 0.0, 0.0), spacing_mm=(1.0, 1.0, 1.0), half_mm=24.0):
    axes = [np.arange(-half_mm, half_mm + s / 2, s) for s in spacing_mm]
    distance = [(axis - c) ** 2 for axis, c in zip(axes, centre_mm)]
    return distance[0][:, None, None] + distance[1][None, :, None] + distance[2][None, None, :] <= radius_mm**2


def blobs(seed, shape=(24, 20, 16)):
    return ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2) > 0.02


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.75, 1.0, 1.5)])
def test_concentric_balls(spacing):
    inner, outer = 12.0, 16.0
    found = agreement(ball(outer, spacing_mm=spacing), ball(inner, spacing_mm=spacing), spacing, tolerance_mm=0.5)
    voxel = math.hypot(*spacing)
    assert found.dice == pytest.approx(2 * inner**3 / (inner**3 + outer**3), rel=0.02)
    assert found.hd95_mm == pytest.approx(outer - inner, abs=voxel)
    assert found.assd_mm == pytest.approx(outer - inner, abs=voxel / 2)
    assert found.volume_error_ml == pytest.approx(4 / 3 * math.pi * (outer**3 - inner**3) / 1000, rel=0.02)
    assert found.nsd == 0.0


def test_shifted_ball():
    radius, shift = 15.0, 6.0
    found = agreement(ball(radius, (shift, 0, 0)), ball(radius), (1, 1, 1), tolerance_mm=shift)
    lens = math.pi * (4 * radius + shift) * (2 * radius - shift) ** 2 / 12  # intersection of two equal spheres
    assert found.dice == pytest.approx(lens / (4 / 3 * math.pi * radius**3), rel=0.01)
    # Along the axis the surfaces are `shift` apart, sideways 1.2 mm: the 95th percentile lies between.
    assert shift / 2 < found.hd95_mm <= shift
    assert found.assd_mm == pytest.approx(shift / 2, abs=0.3)  # the mean of shift |cos| over a sphere
    assert found.nsd == 1.0
    assert found.volume_error_ml == 0.0


@pytest.mark.parametrize("axis, apart_mm", [(0, 2.0), (1, 1.0), (2, 6.0)])
def test_two_voxels_are_exactly_so_many_millimetres_apart(axis, apart_mm):
    spacing = (1.0, 0.5, 3.0)
    one = np.zeros((5, 5, 5), bool)
    one[1, 1, 1] = True
    found = agreement(np.roll(one, 2, axis), one, spacing, tolerance_mm=apart_mm)
    assert found == Agreement(0.0, apart_mm, apart_mm, 1.0, 0.0, "ok")
    assert agreement(np.roll(one, 2, axis), one, spacing, tolerance_mm=apart_mm - 0.01).nsd == 0.0


def test_a_tolerance_of_three_voxels_accepts_three_voxels():
    one = np.zeros((5, 1, 1), bool)
    one[0] = True
    assert agreement(np.roll(one, 3, 0), one, (0.1, 1, 1), tolerance_mm=0.3).nsd == 1.0


def test_identical_masks_agree_fully_even_where_the_image_cuts_them():
    mask = ball(30.0)
    assert agreement(mask, mask, (1, 1, 1), 0.0) == Agreement(1.0, 0.0, 0.0, 1.0, 0.0, "ok")


def test_empty_masks_have_no_distance_and_never_a_nan():
    full, empty = np.ones((2, 5, 10), bool), np.zeros((2, 5, 10), bool)
    spacing = (1, 1, 10)
    assert agreement(empty, full, spacing, 1) == Agreement(0.0, None, None, 0.0, -1.0, "pred_empty")
    assert agreement(full, empty, spacing, 1) == Agreement(0.0, None, None, 0.0, 1.0, "ref_empty")
    assert agreement(empty, empty, spacing, 1) == Agreement(None, None, None, None, 0.0, "both_empty")


@pytest.mark.parametrize("seed", range(6))
def test_monai_gives_the_same_numbers(seed):
    spacing, tolerance_mm = (0.7, 1.3, 2.0), 1.5
    predicted, reference = blobs(seed), blobs(seed + 100)
    found = agreement(predicted, reference, spacing, tolerance_mm)
    tensors = [torch.from_numpy(mask)[None, None].float() for mask in (predicted, reference)]
    options = {"include_background": True, "spacing": spacing}
    assert found.hd95_mm == pytest.approx(
        compute_hausdorff_distance(*tensors, percentile=95, **options).item(), rel=1e-5
    )
    assert found.assd_mm == pytest.approx(
        compute_average_surface_distance(*tensors, symmetric=True, **options).item(), rel=1e-5
    )
    assert found.nsd == pytest.approx(
        compute_surface_dice(*tensors, class_thresholds=[tolerance_mm], **options).item(), rel=1e-5
    )


def test_swapping_the_masks_changes_only_the_sign_of_the_volume_error():
    one, two = blobs(1), blobs(2)
    forth, back = agreement(one, two, (1, 2, 3), 2), agreement(two, one, (1, 2, 3), 2)
    assert (forth.dice, forth.hd95_mm, forth.nsd) == (back.dice, back.hd95_mm, back.nsd)
    assert forth.volume_error_ml == -back.volume_error_ml != 0


@pytest.mark.parametrize(
    ("shape", "spacing", "tolerance", "message"),
    [
        ((4, 4, 5), (1, 1, 1), 1, r"alike, got shapes \(4, 4, 5\) and \(4, 4, 4\)"),
        ((4, 4, 4), (1, 0, 1), 1, "three positive numbers"),
        ((4, 4, 4), (1, 1, 1), -1, "tolerance_mm must be a number of millimetres, 0 or more, got -1"),
        ((4, 4, 4), (1, 1, 1), math.nan, "0 or more, got nan"),
        ((4, 4, 4), (1, 1, 1), math.inf, "0 or more, got inf"),
    ],
)
def test_what_cannot_be_compared_is_refused(shape, spacing, tolerance, message):
    with pytest.raises(InputError, match=message):
        agreement(np.ones(shape, bool), np.ones((4, 4, 4), bool), spacing, tolerance)

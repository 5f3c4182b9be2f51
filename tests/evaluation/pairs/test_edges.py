"""Edges along a label's surface against balls whose blur, place and noise are known."""

import numpy as np
import pytest
from scipy.special import ndtr

from voxpair.evaluation.pairs.edges import WIDTH_PER_SD, find_edges, thick_axes

ISOTROPIC, FINE_PLANES = (1.0, 1.0, 1.0), (0.7, 0.7, 2.0)


def ball(radius_mm, spacing_mm, margin=7):
    """Return a mask and the distance of every voxel from its centre, which lies between voxels."""
    shape = [int(2 * radius_mm / step) + 2 * margin for step in spacing_mm]
    axes = np.meshgrid(*((np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing_mm)), indexing="ij")
    distance = np.sqrt(sum(axis**2 for axis in axes))
    return distance <= radius_mm, distance


def step(distance, radius_mm, sd_mm, contrast=100.0):
    return contrast * ndtr((radius_mm - distance) / sd_mm)


@pytest.mark.parametrize("spacing", [ISOTROPIC, FINE_PLANES])
@pytest.mark.parametrize("sd_mm", [0.8, 1.3])
@pytest.mark.parametrize("contrast", [100.0, -40.0])
def test_a_blurred_step_is_as_wide_as_its_blur(spacing, sd_mm, contrast):
    mask, distance = ball(15.0, spacing)
    edges = find_edges(step(distance, 15.0, sd_mm, contrast), mask, spacing)
    across = ~thick_axes(spacing)
    fine = np.linalg.norm(edges.normals[:, ~across], axis=1) < 0.4
    assert edges.found.all()
    assert np.median(edges.width_mm[fine]) == pytest.approx(WIDTH_PER_SD * sd_mm, rel=0.08)
    assert np.median(edges.offset_mm) == pytest.approx(0, abs=0.15)
    assert np.linalg.norm(edges.normals, axis=1) == pytest.approx(1)


def test_noise_a_quarter_of_the_contrast_hardly_moves_width_and_offset():
    mask, distance = ball(14.0, ISOTROPIC)
    noise = np.random.default_rng(0).normal(0, 25, mask.shape)
    edges = find_edges(step(distance, 14.0, 1.2) + noise, mask, ISOTROPIC)
    assert edges.found.mean() > 0.95
    assert np.median(edges.width_mm[edges.found]) == pytest.approx(WIDTH_PER_SD * 1.2, rel=0.15)
    assert np.mean(edges.offset_mm[edges.found]) == pytest.approx(0, abs=0.1)


def test_slopes_follow_the_derivative_of_the_blur():
    sd = 1.5
    mask, distance = ball(16.0, ISOTROPIC)
    edges = find_edges(step(distance, 16.0, sd), mask, ISOTROPIC)
    on = 100 * (ndtr(0.5 / sd) - ndtr(-0.5 / sd))
    beside = 100 * (ndtr(2.5 / sd) - ndtr(1.5 / sd))
    assert edges.slope_on.mean() == pytest.approx(on, rel=0.03)
    assert edges.slope_beside.mean() == pytest.approx(beside, rel=0.1)


@pytest.mark.parametrize("voxel_mm", [0.6, 1.0, 2.0])
@pytest.mark.parametrize("away", [-1.0, 1.0])
def test_labels_one_voxel_too_wide_or_narrow_move_the_offset_by_one_voxel(away, voxel_mm):
    spacing, radius = (voxel_mm,) * 3, 14 * voxel_mm
    mask, distance = ball(radius, spacing)
    image = step(distance, radius, 0.8 * voxel_mm)
    exact = find_edges(image, mask, spacing)
    moved = find_edges(image, distance <= radius + away * voxel_mm, spacing)
    assert np.mean(moved.offset_mm) - np.mean(exact.offset_mm) == pytest.approx(-away * voxel_mm, abs=0.1 * voxel_mm)


def test_width_and_offset_do_not_depend_on_the_intensity_scale():
    mask, distance = ball(10.0, ISOTROPIC)
    image = step(distance, 10.0, 1.0)
    one, other = find_edges(image, mask, ISOTROPIC), find_edges(1000 - 0.02 * image, mask, ISOTROPIC)
    np.testing.assert_allclose(one.offset_mm, other.offset_mm, atol=0.13)  # a step of the grid
    assert np.median(one.width_mm) == pytest.approx(np.median(other.width_mm), rel=0.09)


def test_white_noise_has_hardly_an_edge_and_a_flat_image_none():
    mask, _ = ball(14.0, ISOTROPIC)
    assert find_edges(np.random.default_rng(1).normal(size=mask.shape), mask, ISOTROPIC).found.mean() < 0.05
    flat = find_edges(np.full(mask.shape, 0.1, np.float32), mask, ISOTROPIC)
    assert len(flat.found) and not flat.found.any()
    assert np.isfinite(flat.width_mm).all() and not flat.slope_on.any()


def test_a_thin_bright_wall_is_not_one_edge():
    mask, distance = ball(14.0, ISOTROPIC)
    wall = step(distance, 15.0, 0.5) - step(distance, 13.0, 0.5) + step(distance, 14.0, 0.5, contrast=20.0)
    assert find_edges(wall, mask, ISOTROPIC).found.mean() < 0.05


def test_surface_that_the_image_cuts_is_left_out():
    mask, distance = ball(10.0, ISOTROPIC)
    half = mask.shape[0] // 2
    edges = find_edges(step(distance, 10.0, 0.8)[half:], mask[half:], ISOTROPIC)
    assert edges.found.all() and edges.normals[:, 0].min() > -0.2
    filled = find_edges(np.zeros((8, 8, 8)), np.ones((8, 8, 8), bool), ISOTROPIC)
    assert filled.found.shape == (0,) and filled.found.dtype == bool


@pytest.mark.parametrize("shape", [(1, 20, 20), (20, 20, 1)])
def test_a_single_slice_has_no_profile_that_stays_inside_across_it(shape):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(5, 15) if n > 1 else slice(None) for n in shape)] = True
    edges = find_edges(mask.astype(float), mask, ISOTROPIC)
    assert edges.found.mean() > 0.9
    assert not edges.normals[:, int(np.argmin(shape))].any()

"""Noise inside a region: white noise is unbiased and flat, coloured noise shows its spectrum."""

import numpy as np
import pytest
from scipy import ndimage

from voxpair.evaluation.pairs.noise import FEWEST_FREE, find_noise

SPACINGS = [(1.0, 1.0, 1.0), (0.7, 0.7, 2.0), (1.5, 1.5, 10.0)]


def ball(radius_mm, spacing_mm, margin=3):
    shape = [int(2 * radius_mm / step) + 2 * margin for step in spacing_mm]
    axes = np.meshgrid(*((np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing_mm)), indexing="ij")
    return sum(axis**2 for axis in axes) <= radius_mm**2


def drawn(mask, spacing, count, make, seed=0):
    generator = np.random.default_rng(seed)
    return [find_noise(make(generator), mask, spacing) for _ in range(count)]


@pytest.mark.parametrize("spacing", SPACINGS)
def test_white_noise_is_flat_at_variance_times_voxel_volume(spacing):
    sd = 7.0
    mask = ball(20.0, spacing)
    found = drawn(mask, spacing, 8, lambda g: g.normal(40, sd, mask.shape))
    variance = np.mean([noise.sd**2 for noise in found])
    assert variance == pytest.approx(sd**2, rel=0.03)
    level = np.mean([noise.power for noise in found], axis=0) / (sd**2 * np.prod(spacing))
    assert level == pytest.approx(1, abs=0.15)
    assert level.mean() == pytest.approx(1, abs=0.04)
    # Its integral over all frequencies (volume 1 / V) is the variance.
    assert level.mean() * sd**2 == pytest.approx(variance, rel=0.06)
    nyquist = 0.5 / min(spacing)
    assert 0.1 * nyquist < found[0].frequency_per_mm[0] < found[0].frequency_per_mm[-1] < nyquist


@pytest.mark.parametrize("radius, spacing", [(4.5, (1.0, 1.0, 1.0)), (6.0, (1.0, 1.0, 1.0)), (5.0, (0.7, 0.7, 2.0))])
def test_the_sd_is_unbiased_in_small_structures_of_odd_shape(radius, spacing):
    mask = ball(radius, spacing)
    mask[: mask.shape[0] // 2, : mask.shape[1] // 3] = False
    found = drawn(mask, spacing, 150, lambda g: g.normal(0, 3.0, mask.shape))
    variances = np.array([noise.sd**2 for noise in found])
    error = variances.std() / np.sqrt(len(variances))
    assert abs(variances.mean() - 9) < 4 * error and error < 0.2


def test_filtered_noise_shows_the_response_of_its_filter():
    sd_voxels, spacing = 0.8, (1.2, 1.2, 1.2)
    mask = ball(24.0, spacing)
    found = drawn(mask, spacing, 6, lambda g: ndimage.gaussian_filter(g.normal(0, 10, mask.shape), sd_voxels))
    frequency = found[0].frequency_per_mm
    expected = 100 * 1.2**3 * np.exp(-((2 * np.pi * frequency * sd_voxels * 1.2) ** 2))
    strong = expected > 0.02 * expected.max()  # weaker parts drown in what the region's shape spreads
    measured = np.mean([noise.power for noise in found], axis=0)
    assert strong.sum() > 8
    assert 10 * np.log10(measured[strong]) == pytest.approx(10 * np.log10(expected[strong]), abs=1.0)


def test_finer_noise_has_a_higher_frequency():
    spacing, mask = (1.0, 1.0, 1.0), ball(12.0, (1.0, 1.0, 1.0))
    white = np.random.default_rng(3).normal(size=mask.shape)
    frequencies = [
        find_noise(ndimage.gaussian_filter(white, sd), mask, spacing).mean_frequency_per_mm for sd in (0.0, 0.5, 1.0)
    ]
    assert frequencies[0] > frequencies[1] > frequencies[2]


def test_frequencies_are_per_millimetre():
    mask = ball(12.0, (1.0, 1.0, 1.0))
    image = np.random.default_rng(4).normal(size=mask.shape)
    one, half = find_noise(image, mask, (1.0,) * 3), find_noise(image, mask, (0.5,) * 3)
    assert half.frequency_per_mm == pytest.approx(2 * one.frequency_per_mm)
    assert half.power == pytest.approx(one.power / 8)
    assert half.sd == one.sd


def test_slow_changes_and_other_tissues_are_no_noise():
    spacing, mask = (1.0, 1.0, 1.0), ball(12.0, (1.0, 1.0, 1.0))
    image = np.random.default_rng(5).normal(0, 10, mask.shape)
    alone = find_noise(image, mask, spacing).sd
    slow = image + 20 * np.sin(np.arange(mask.shape[0]) / 12)[:, None, None]
    assert find_noise(slow, mask, spacing).sd == pytest.approx(alone, rel=0.02)
    beside = np.where(mask, image, -1000.0)
    assert find_noise(beside, mask, spacing).sd == alone


@pytest.mark.parametrize("level", [0.0, 0.1, -1024.0])
def test_an_image_without_noise_has_exactly_none(level):
    found = find_noise(np.full((12, 12, 12), level, np.float32), np.ones((12, 12, 12), bool), (1, 1, 1))
    assert found.sd == 0.0 and not found.power.any() and found.mean_frequency_per_mm is None


def test_the_border_of_the_image_is_no_border_of_the_structure():
    image = np.random.default_rng(7).normal(size=(9, 9, 3))
    assert find_noise(image, np.ones(image.shape, bool), (1, 1, 1)) is not None
    framed = np.pad(image, 1)
    assert find_noise(framed, np.pad(np.ones(image.shape, bool), 1), (1, 1, 1)) is None  # 7 x 7 x 1 are left


def test_too_small_a_structure_has_no_noise_to_judge():
    image = np.random.default_rng(6).normal(size=(20, 20, 20))
    for size in (0, 1, 3, 5):
        mask = np.zeros(image.shape, bool)
        mask[5 : 5 + size, 5 : 5 + size, 5 : 5 + size] = True
        assert (size - 2) ** 3 < FEWEST_FREE and find_noise(image, mask, (1, 1, 1)) is None
    sheet = np.zeros(image.shape, bool)
    sheet[:, :, 4:6] = True
    assert find_noise(image, sheet, (1, 1, 1)) is None
    assert find_noise(image, sheet, (1, 1, 5)) is not None  # two thick slices keep all their voxels

"""Partial volume, noise and metal: what the scanner adds."""

import numpy as np
import pytest

from voxpair.phantom.acquisition import SATURATION_HU, add_metal, blur, composite, noise
from voxpair.phantom.shapes import Ellipsoid, VoxelGrid
from voxpair.phantom.layers import Layer


def correlation(field, axis):
    first, second = np.moveaxis(field, axis, 0)[:-1].ravel(), np.moveaxis(field, axis, 0)[1:].ravel()
    return np.corrcoef(first, second)[0, 1]


def test_partial_volume_keeps_the_total_of_a_ball():
    spacing = np.full(3, 2.0)
    grid = VoxelGrid([np.arange(-20.0, 21.0, 2.0)] * 3)
    ball = grid.draw(Ellipsoid((0.3, 0.7, -0.4), (12, 12, 12)))
    image, labels = composite([Layer(ball, 500.0, "LV")], spacing)
    share = (image + 1000) / 1500
    assert share.sum() * 8 == pytest.approx(4 / 3 * np.pi * 12**3, rel=0.01)
    np.testing.assert_array_equal(labels == 3, share > 0.5)


def test_later_layers_hide_earlier_ones_and_take_their_labels():
    inside = np.full((2, 2, 2), -9.0, np.float32)
    image, labels = composite([Layer(inside, 100.0, "RV"), Layer(inside, 70.0)], np.ones(3))
    assert (image == 70).all()
    assert (labels == 0).all()


@pytest.mark.parametrize("kernel", ["soft", "standard", "sharp"])
def test_noise_has_its_deviation_and_is_correlated_between_slices(kernel):
    made = noise((48, 48, 24), np.array([0.8, 0.8, 1.0]), kernel, 25.0, np.random.default_rng(1))
    assert made.std() == pytest.approx(25, rel=1e-3)
    assert correlation(made, 2) > 0.3
    assert correlation(made, 0) > 0.1


def test_noise_power_peaks_where_the_kernel_says():
    spacing, size = 0.8, 128
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size, spacing), np.fft.fftfreq(size, spacing)))
    bins = np.arange(0.02, 0.6, 0.02)
    for kernel, expected in (("soft", 0.20), ("sharp", 0.30)):
        made = noise((size, size, 16), np.full(3, spacing), kernel, 20.0, np.random.default_rng(2))
        power = (np.abs(np.fft.fft2(made, axes=(0, 1))) ** 2).mean(axis=2)
        profile = [power[(frequency >= low) & (frequency < low + 0.02)].mean() for low in bins]
        assert bins[np.argmax(profile)] + 0.01 == pytest.approx(expected, rel=0.15)


def test_no_noise_is_none():
    assert not noise((8, 8, 8), np.ones(3), "soft", 0.0, np.random.default_rng(0)).any()


def test_sharper_kernels_keep_more_of_an_edge():
    edge = np.zeros((21, 5, 5), np.float32)
    edge[10:] = 100
    steepest = [np.diff(blur(edge, np.ones(3), kernel), axis=0).max() for kernel in ("soft", "standard", "sharp")]
    assert steepest == sorted(steepest)
    assert steepest[0] < steepest[-1] - 5


def test_metal_saturates_and_streaks_only_the_slices_it_crosses():
    image = np.zeros((32, 32, 6), np.float32)
    distance = np.full(image.shape, 60.0, np.float32)
    distance[16, 16, 2] = -2.0
    marked = add_metal(image, distance, np.ones(3), np.random.default_rng(0))
    assert marked[16, 16, 2] == SATURATION_HU
    streaks = np.delete(marked[:, :, 2].ravel(), 16 * 32 + 16)
    assert streaks.max() > 20 and streaks.min() < -20
    assert not marked[:, :, [0, 1, 3, 4, 5]].any()

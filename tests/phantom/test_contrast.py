"""Contrast states: which pool is brighter than which, and what is refused."""

import numpy as np
import pytest

from voxpair.core.errors import InputError
from voxpair.phantom.contrast import appendage_level, draw_levels, smooth_texture, streaming_level


def mean_levels(state, patients=200):
    drawn = [draw_levels(state, np.random.default_rng(seed)) for seed in range(patients)]
    return {name: np.mean([levels[name] for levels in drawn]) for name in drawn[0]}


def test_arterial_scans_are_bright_on_the_left_and_grey_on_the_right():
    levels = mean_levels("arterial")
    assert levels["LV"] == pytest.approx(380, abs=15)
    assert levels["PA"] == pytest.approx(320, abs=20)
    assert levels["MYO"] == pytest.approx(95, abs=3)
    assert levels["LV"] - levels["RV"] > 150


def test_late_venous_scans_hardly_differ_between_chambers():
    levels = mean_levels("late_venous")
    assert np.ptp([levels[name] for name in ("LV", "LA", "AO", "PA", "RV", "RA", "LAA")]) < 12


def test_without_contrast_blood_is_blood_everywhere():
    levels = draw_levels("non_contrast", np.random.default_rng(3))
    assert levels["LAA"] == levels["LA"] == levels["AO"] == levels["LV"]
    assert levels["streaming"] == 0
    assert 30 <= levels["RA"] < levels["MYO"] + 30


def test_an_unknown_state_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"unknown contrast state 'venous'.*arterial, mixed, late_venous"):
        draw_levels("venous", np.random.default_rng(0))


def test_the_appendage_darkens_from_orifice_to_tip():
    levels = {"LA": 400.0, "LAA": 150.0}
    np.testing.assert_allclose(appendage_level(np.array([-1, 0, 0.5, 1, 2]), levels), [400, 400, 275, 150, 150])


def test_texture_is_standard_and_streaming_keeps_to_blood():
    texture = smooth_texture([np.arange(-120, 120, 3.0)] * 3, 10.0, np.random.default_rng(0))
    assert texture.mean() == pytest.approx(0, abs=0.05)
    assert texture.std() == pytest.approx(1, abs=0.03)
    assert np.abs(np.diff(texture, axis=0)).mean() < 0.5  # smooth: neighbours are alike
    assert streaming_level(60.0, texture, {"streaming": 80.0}).min() == 30


def test_a_part_of_a_grid_has_the_texture_of_the_whole():
    axes = [np.arange(-30, 30, 3.0)] * 3
    whole = smooth_texture(axes, 15.0, np.random.default_rng(1))
    part = smooth_texture([axes[0], axes[1][4:9], axes[2][10:]], 15.0, np.random.default_rng(1))
    np.testing.assert_array_equal(part, whole[:, 4:9, 10:])

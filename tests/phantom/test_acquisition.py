"""Painting, kernels, and whole scans: what the scanner adds to a patient."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from voxpair.core.labels import CARDIAC8
from voxpair.phantom import HeartParameters
from voxpair.phantom.acquisition import SATURATION_HU, Scan, ScanSettings, acquire
from voxpair.phantom.heart import inflation
from voxpair.phantom.kernels import blur, cutoff_per_mm, noise
from voxpair.phantom.layers import Layer, label_map
from voxpair.phantom.magnetic import coil_sensitivity, magnetic_image
from voxpair.phantom.painting import paint, paint_patient
from voxpair.phantom.physics import contrast_gain
from voxpair.phantom.shapes import Ellipsoid, VoxelGrid

AXES = [8 + np.arange(-88, 88, 4.0), -5 + np.arange(-88, 88, 4.0), np.arange(-70, 60, 4.0)]
QUIET = ScanSettings(noise_hu=0)
STILL = Scan(seed=3)


def hu(layer):
    return [layer.level_hu]


@cache
def scanned(**changes):
    changes = {"noise_hu": 0, **changes}
    return acquire(AXES, HeartParameters(), ScanSettings(**changes), STILL)


def core(result, name, erosions=1):
    return binary_erosion(result.labels == CARDIAC8.value_of(name), iterations=erosions)


def correlation(field, axis):
    first, second = np.moveaxis(field, axis, 0)[:-1].ravel(), np.moveaxis(field, axis, 0)[1:].ravel()
    return np.corrcoef(first, second)[0, 1]


def test_partial_volume_keeps_the_total_of_a_ball():
    grid = VoxelGrid([np.arange(-20.0, 21.0, 2.0)] * 3)
    layers = [Layer(grid.draw(Ellipsoid((0.3, 0.7, -0.4), (12, 12, 12))), 500.0, "LV")]
    share = (paint(layers, 2.0, hu, [-1000.0])[0] + 1000) / 1500
    assert share.sum() * 8 == pytest.approx(4 / 3 * np.pi * 12**3, rel=0.01)
    np.testing.assert_array_equal(label_map(layers) == 3, share > 0.5)


def test_later_layers_hide_earlier_ones():
    inside = np.full((2, 2, 2), -9.0, np.float32)
    assert (paint([Layer(inside, 100.0), Layer(inside, 70.0)], 1.0, hu, [-1000.0]) == 70).all()


def test_several_levels_are_painted_at_once_and_each_as_if_alone():
    distance = np.random.default_rng(0).normal(0, 1, (5, 6, 7)).astype(np.float32)
    layers = [Layer(distance, 100.0), Layer(distance.copy()[::-1], np.abs(distance) * 50)]
    both = paint(layers, 1.0, lambda layer: [layer.level_hu, 2.0], [-1000.0, 0.0])
    np.testing.assert_array_equal(both[0], paint(layers, 1.0, hu, [-1000.0])[0])
    np.testing.assert_array_equal(both[1], paint(layers, 1.0, lambda layer: [2.0], [0.0])[0])


def test_a_part_of_a_scan_is_painted_as_in_the_whole():
    patient = HeartParameters()
    known = inflation(patient)
    whole = paint_patient(AXES, patient, known, hu, [-1000.0])
    part = paint_patient([AXES[0], AXES[1], AXES[2][10:20]], patient, known, hu, [-1000.0])
    assert (np.abs(part.levels - whole.levels[..., 10:20]) > 2).mean() < 1e-3
    assert (part.labels != whole.labels[..., 10:20]).mean() < 1e-3


def test_steps_shift_the_heart_from_their_height_on_and_leave_the_spine():
    patient = HeartParameters()
    known = inflation(patient)
    still = paint_patient(AXES, patient, known, hu, [-1000.0])
    stepped = paint_patient(AXES, patient, known, hu, [-1000.0], steps=[(AXES[2][16], 8.0, -4.0)])
    np.testing.assert_array_equal(stepped.labels[..., :16], still.labels[..., :16])
    moved = np.roll(still.labels[..., 16:], (2, -1), axis=(0, 1))
    assert (stepped.labels[..., 16:] == moved)[still.labels[..., 16:] > 0].mean() > 0.9
    np.testing.assert_array_equal(stepped.levels[:, :3], still.levels[:, :3])


def test_a_beat_may_contribute_a_single_slice():
    patient = HeartParameters()
    known = inflation(patient)
    still = paint_patient(AXES, patient, known, hu, [-1000.0])
    stepped = paint_patient(
        AXES, patient, known, hu, [-1000.0], steps=[(AXES[2][1], 0.0, 0.0), (AXES[2][-1], 9.0, 0.0)]
    )
    np.testing.assert_array_equal(stepped.labels[..., :-1], still.labels[..., :-1])
    assert stepped.levels.shape == still.levels.shape


@pytest.mark.parametrize("kernel", ["soft", "standard", "sharp"])
def test_noise_has_its_deviation_and_is_correlated_between_slices(kernel):
    made = noise((64, 64, 24), np.array([0.8, 0.8, 1.0]), kernel, np.random.default_rng(1))
    assert made.std() == pytest.approx(1, rel=0.03)
    assert correlation(made, 2) > 0.3
    assert correlation(made, 0) > 0.1


def test_a_coarse_grid_limits_the_kernel():
    assert cutoff_per_mm("sharp", 0.7) > cutoff_per_mm("soft", 0.7)
    assert cutoff_per_mm("sharp", 4.0) == cutoff_per_mm("soft", 4.0) < 0.2


def test_sharper_kernels_keep_more_of_an_edge():
    edge = np.zeros((41, 5, 5), np.float32)
    edge[20:] = 100
    spacing_mm = np.full(3, 0.5)
    steepest = [np.diff(blur(edge, spacing_mm, kernel), axis=0).max() for kernel in ("soft", "standard", "sharp")]
    assert steepest == sorted(steepest)
    assert steepest[0] < steepest[-1] - 5


def test_both_modes_agree_on_tissues():
    fast, physical = scanned(), scanned(mode="physical")
    np.testing.assert_array_equal(fast.labels, physical.labels)
    for name, tolerance in (("LV", 0.06), ("AO", 0.06), ("RV", 0.08), ("MYO", 0.15)):
        inside = core(fast, name)
        assert np.median(physical.image[inside]) == pytest.approx(np.median(fast.image[inside]), rel=tolerance), name
    lung = binary_erosion((fast.image < -820) & (fast.image > -920), iterations=2)
    assert np.median((physical.image - fast.image)[lung]) == pytest.approx(0, abs=15)


def test_both_modes_agree_on_a_pacemaker_lead():
    patient = HeartParameters(metal="lead")
    axes = [AXES[0], AXES[1], AXES[2][14:22]]
    modes = ("fast", "physical")
    plain, marked = (
        [acquire(axes, p, ScanSettings(noise_hu=0, mode=mode), STILL).image for mode in modes]
        for p in (HeartParameters(), patient)
    )
    fast, physical = (with_metal - without for with_metal, without in zip(marked, plain))
    assert max(image.max() for image in marked) <= SATURATION_HU
    assert physical.max() > 300 and physical.min() < -30
    assert np.corrcoef(fast.ravel(), physical.ravel())[0, 1] > 0.9
    assert fast.std() == pytest.approx(physical.std(), rel=0.25)


@pytest.mark.parametrize("mode", ["fast", "physical"])
def test_a_lower_voltage_brightens_contrast_and_not_muscle(mode):
    high, low = scanned(mode=mode), scanned(mode=mode, tube_voltage_kv=80)
    inside = core(high, "LV")
    gain = (np.median(low.image[inside]) - 42) / (np.median(high.image[inside]) - 42)
    assert gain == pytest.approx(contrast_gain("iodine", 80), rel=0.08)
    fat = binary_erosion((high.image > -120) & (high.image < -70), iterations=1)
    assert np.median((low.image - high.image)[fat]) == pytest.approx(0, abs=12)


def test_noise_of_a_scan_is_what_was_asked_for_and_halves_with_four_times_the_dose():
    one, four = scanned(noise_hu=25).image, scanned(noise_hu=25, dose=4.0).image
    quiet = scanned().image
    middle = np.s_[12:32, 12:32]
    assert (one - quiet)[middle].std() == pytest.approx(25, rel=0.1)
    ratio = (one - quiet)[middle].std() / (four - quiet)[middle].std()
    assert 2 < ratio < 2.2  # the electronics do not fall with the dose


def test_a_moving_heart_blurs_its_edges_in_both_modes():
    moving = Scan(heart_rate_bpm=90, window_ms=175, seed=3)
    patient = HeartParameters(phase=0.2)
    for mode in ("fast", "physical"):
        settings = ScanSettings(noise_hu=0, mode=mode)
        still, moved = (acquire(AXES, patient, settings, scan) for scan in (STILL, moving))
        np.testing.assert_array_equal(moved.labels, still.labels)
        wall = binary_erosion(still.labels == CARDIAC8.value_of("MYO"))
        assert np.abs((moved.image - still.image)[wall]).mean() > 5
        spine = np.s_[20:28, :3]
        assert np.abs((moved.image - still.image)[spine]).mean() < (0.1 if mode == "fast" else 15)  # streaks reach it


def test_scans_are_drawn_with_the_probabilities_asked_for():
    settings = ScanSettings(motion=0.3, stepped=0.2)
    drawn = [Scan.draw(np.random.default_rng([1, i]), settings) for i in range(600)]
    assert np.mean([scan.window_ms > 0 for scan in drawn]) == pytest.approx(0.3, abs=0.06)
    assert np.mean([len(scan.steps) > 0 for scan in drawn]) == pytest.approx(0.2, abs=0.05)
    rates = [[scan.heart_rate_bpm for scan in drawn if (scan.window_ms > 0) == moves] for moves in (True, False)]
    assert min(rates[0]) > max(rates[1])


def test_phases_surround_the_middle_of_the_scan():
    patient = HeartParameters(phase=0.95)
    assert STILL.phases(patient) == [patient]
    phases = [p.phase for p in Scan(heart_rate_bpm=60, window_ms=200).phases(patient)]
    np.testing.assert_allclose(phases, [0.85, 0.95, 0.05], atol=1e-9)


def test_an_mri_like_image_shows_bright_blood_whatever_the_contrast_medium():
    venous = replace(HeartParameters(), contrast="non_contrast")
    images = [acquire(AXES, p, ScanSettings(modality="mr"), STILL) for p in (HeartParameters(), venous)]
    for result in images:
        blood, wall = (np.median(result.image[core(result, name)]) for name in ("LV", "MYO"))
        assert 1.8 < blood / wall < 4
        assert result.image.min() >= 0
    np.testing.assert_allclose(images[0].image, images[1].image, atol=1e-3)


def test_noise_of_an_mri_like_image_is_rician():
    axes = [np.arange(48.0)] * 2 + [np.arange(24.0)]
    air = magnetic_image(np.zeros((48, 48, 24), np.float32), None, axes, np.random.default_rng(0))
    assert air.mean() / air.std() == pytest.approx(np.sqrt(np.pi / (4 - np.pi)), rel=0.02)  # Rayleigh's ratio
    metal = np.zeros((48, 48, 24), np.float32)
    metal[22:26, 22:26] = 1
    hollow = magnetic_image(np.ones((48, 48, 24), np.float32), metal, axes, np.random.default_rng(0))
    assert hollow[23:25, 23:25].mean() < 0.2 * hollow[:8].mean()


def test_coils_are_smooth_and_brightest_at_the_chest():
    field = coil_sensitivity(AXES, np.random.default_rng(0))
    assert field.mean() == pytest.approx(1, abs=1e-3)
    assert field[:, -10:].mean() > field[:, :10].mean()
    assert np.abs(np.diff(field, axis=1)).max() < 0.1

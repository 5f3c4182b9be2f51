"""Projections and reconstruction: closed forms, noise as theory has it, and artefacts that come out by themselves."""

from dataclasses import replace

import numpy as np
import pytest

from voxpair.phantom.kernels import cutoff_per_mm, noise
from voxpair.phantom.projection import Projector, ramp_filter, view_angles
from voxpair.phantom.tomography import Scanner, surroundings

SIDE, PIXEL_MM = 96, 0.75
PLANE = (np.arange(SIDE) - (SIDE - 1) / 2) * PIXEL_MM


def disc(axes, radius_mm, centre=(0.0, 0.0)):
    pixel_mm = axes[0][1] - axes[0][0]
    far = np.hypot(axes[0][:, None] - centre[0], axes[1][None] - centre[1])
    return np.clip(0.5 - (far - radius_mm) / pixel_mm, 0, 1).astype(np.float32)


def scan_axes(slices, side=SIDE, pixel_mm=PIXEL_MM):
    plane = (np.arange(side) - (side - 1) / 2) * pixel_mm
    return [plane, plane, np.arange(slices) * 1.0]


def cylinder(axes, radius_mm=120.0):
    """Water in a cylinder around the middle, and the grid around the scan that it lies on."""
    grid = surroundings(axes, 3, 4)
    return np.repeat(disc(grid.axes, radius_mm)[:, :, None], len(grid.axes[2]), 2), grid


def loud(scanner, dose=1.0, radius_mm=120.0):
    """The scanner with the exposure that gives 25 HU behind that much water."""
    return scanner.exposed(25.0, dose, *cylinder(scanner.axes, radius_mm))


def water_scan(scanner, rng_seed=0, radius_mm=120.0):
    """A scan of the middle of a water cylinder that is wider than the image."""
    around, grid = cylinder(scanner.axes, radius_mm)
    inside = np.repeat(disc(scanner.axes, radius_mm)[:, :, None, None], len(scanner.axes[2]), 3)
    rng = np.random.default_rng(rng_seed)
    return scanner.image([inside], around[:, :, None], grid, ["water"], rng), around, grid


def rods(material, amount, side=44):
    """A quiet scan, X Y, of a water cylinder with two rods at x = -15 and x = 15 mm."""
    axes = scan_axes(2, side, 1.5)
    scanner = Scanner.for_grid(axes, "standard", 120)
    grid = surroundings(axes, 3, 4)
    around = np.zeros((*grid.outside.shape, 2, 2), np.float32)
    around[:, :, 0] = disc(grid.axes, 100)[:, :, None]
    inside = np.zeros((side, side, 2, 2), np.float32)
    inside[:, :, 0] = 1
    inside[:, :, 1] = amount * (disc(axes, 3, (-15, 0)) + disc(axes, 3, (15, 0)))[:, :, None]
    return scanner.image([inside], around, grid, ["water", material], np.random.default_rng(0))[:, :, 0]


def test_projections_of_a_disc_are_its_chords():
    projector = Projector(PLANE, PLANE, 0.6, 160)
    centre, radius = (8.0, -5.0), 20.0
    angles = np.array([0.0, 0.3, np.pi / 4, 2.0])
    made = projector.project(disc([PLANE, PLANE], radius, centre).reshape(-1, 1), angles)[:, :, 0]
    s = (np.arange(160) - 159 / 2) * 0.6
    for angle, row in zip(angles, made):
        off = s - centre[0] * np.cos(angle) - centre[1] * np.sin(angle)
        chord = 2 * np.sqrt(np.maximum(radius**2 - off**2, 0))
        away = np.abs(np.abs(off) - radius) > 1.5  # the rim is smeared over a pixel and a detector
        np.testing.assert_allclose(row[away], chord[away], atol=0.4)
        assert row.sum() * 0.6 == pytest.approx(np.pi * radius**2, rel=2e-3)


def test_pixels_need_not_be_square():
    x, y = np.arange(-20, 20, 1.0), np.arange(-20, 20, 0.5)
    projector = Projector(x, y, 0.4, 200)
    made = projector.project(np.ones((len(x) * len(y), 1), np.float32), np.array([0.0, np.pi / 2, 1.0]))
    np.testing.assert_allclose(made.sum(axis=1)[:, 0] * 0.4, 40 * 40, rtol=1e-3)
    assert made[0].max() == pytest.approx(40, rel=1e-3)


def test_back_projection_gives_a_disc_back():
    projector = Projector(PLANE, PLANE, 0.6, 200)
    image, angles = disc([PLANE, PLANE], 22, (4, 3)), view_angles(240)
    filtered = ramp_filter(projector.project(image.reshape(-1, 1), angles), 0.6, cutoff_per_mm("standard", PIXEL_MM))
    found = projector.back_project(filtered, angles).reshape(SIDE, SIDE) * np.pi / 240
    assert found[disc([PLANE, PLANE], 18, (4, 3)) == 1] == pytest.approx(1, abs=0.01)
    assert found[disc([PLANE, PLANE], 26, (4, 3)) == 0] == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("voltage", [80, 120])
def test_water_is_0_hu_and_air_is_1000_below(voltage):
    axes = scan_axes(2, 64, 3.0)
    image, *_ = water_scan(Scanner.for_grid(axes, "standard", voltage), radius_mm=60.0)
    assert np.median(image[disc(axes, 50) == 1]) == pytest.approx(0, abs=2)
    assert np.median(image[disc(axes, 75) == 0]) == pytest.approx(-1000, abs=5)


def noise_power(field, bins_per_mm=0.04):
    """Radial noise power of the slices of (X, Y, Z): frequencies and power density."""
    side = field.shape[0]
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(side, PIXEL_MM)] * 2))
    taper = np.hanning(side)[:, None] * np.hanning(side)
    power = (np.abs(np.fft.fft2((field - field.mean()) * taper[:, :, None], axes=(0, 1))) ** 2).mean(2)
    which = np.round(frequency / bins_per_mm).astype(int)
    count = int(0.6 / bins_per_mm)
    return np.arange(count) * bins_per_mm, np.array([power[which == i].mean() for i in range(count)])


def peak(field):
    """Frequency of the peak of f exp(-(f / f_c)^2) fitted to the noise power, per mm."""
    frequency, power = noise_power(field)
    used = (frequency > 0.05) & (power > 0.15 * power.max())
    slope, _ = np.polyfit(frequency[used] ** 2, np.log(power[used] / frequency[used]), 1)
    return np.sqrt(-1 / slope / 2)


@pytest.mark.parametrize(("kernel", "target"), [("soft", 0.20), ("standard", 0.25), ("sharp", 0.30)])
def test_noise_of_both_modes_has_the_power_and_the_peak_of_the_kernel(kernel, target):
    axes = scan_axes(8)
    scanner = loud(Scanner.for_grid(axes, kernel, 120))
    physical, around, grid = water_scan(scanner)  # water alone is even, so all that varies is noise
    expected = scanner.noise_hu(around, grid)
    spacing_mm = np.array([PIXEL_MM, PIXEL_MM, 1.0])
    fast = noise(physical.shape, spacing_mm, kernel, np.random.default_rng(1)) * expected
    target_hu = np.sqrt((expected**2).mean())
    for made in (physical, fast):
        assert made.var() == pytest.approx(target_hu**2, rel=0.1)
        assert peak(made) == pytest.approx(target, rel=0.1)
    (frequency, slow), (_, quick) = noise_power(physical), noise_power(fast)
    for band in (frequency < 0.2), (frequency >= 0.2):  # a ring of frequencies weighs as much as its circumference
        assert (frequency * slow)[band].sum() == pytest.approx((frequency * quick)[band].sum(), rel=0.2)


def test_noise_is_as_loud_as_asked_for_and_falls_with_the_root_of_the_dose():
    axes = scan_axes(8, 48, 1.5)
    for dose, radius_mm, expected in ((1.0, 90.0, 25.0), (4.0, 140.0, 12.5)):
        scanner = loud(Scanner.for_grid(axes, "standard", 120), dose, radius_mm)
        image, around, grid = water_scan(scanner, radius_mm=radius_mm)
        assert image[12:36, 12:36].std() == pytest.approx(expected, rel=0.1)
        assert scanner.noise_hu(around, grid)[24, 24, 4] == pytest.approx(expected, rel=0.1)


def test_with_the_same_quanta_a_thicker_patient_is_noisier_and_the_middle_noisier_than_the_rim():
    axes = scan_axes(4, 64, 3.0)
    scanner = loud(Scanner.for_grid(axes, "standard", 120))
    thin, grid = cylinder(axes, 90.0)
    thick, _ = cylinder(axes, 150.0)
    sd = [scanner.noise_hu(around, grid) for around in (thin, thick)]
    assert sd[1][32, 32, 2] > 2 * sd[0][32, 32, 2]
    assert sd[0][32, 32, 2] > 1.2 * sd[0][32, 4, 2]


def test_the_tube_works_harder_where_the_patient_is_thicker():
    axes = scan_axes(2, 64, 3.0)
    grid = surroundings(axes, 3, 4)
    wide = disc([grid.axes[0] / 1.5, grid.axes[1], grid.axes[2]], 100)[:, :, None].repeat(len(grid.axes[2]), 2)
    oval = Scanner.for_grid(axes, "standard", 120).exposed(25.0, 1.0, wide, grid)
    round_ = loud(Scanner.for_grid(axes, "standard", 120))
    np.testing.assert_allclose(round_.current, 1, atol=0.05)
    assert oval.current.mean() == pytest.approx(1)
    side, front = oval.current[len(oval.current) // 2], oval.current[0]  # rays along x, rays along y
    assert side > 1.5 * front


def test_a_coarse_image_is_as_noisy_as_asked_for_too():
    axes = scan_axes(8, 48, 2.5)
    scanner = loud(Scanner.for_grid(axes, "standard", 120))
    noisy, *_ = water_scan(scanner)
    quiet, *_ = water_scan(replace(scanner, quanta=np.inf))
    assert (noisy - quiet)[12:36, 12:36].std() == pytest.approx(25, rel=0.1)


def test_metal_darkens_what_lies_between_and_streaks_what_lies_around():
    steel, water = rods("steel", 1.0), rods("steel", 0.0)
    assert np.abs(water[5:-5, 5:-5]).max() < 15
    assert steel.max() > 3000
    between, beside = steel[20:24, 21:23].mean(), steel[20:24, 3:7].mean()
    assert between < -100
    assert between < beside - 50


def test_metal_alone_makes_the_streaks_of_metal_in_water_and_only_where_it_is():
    axes = scan_axes(4, 44, 1.5)
    share = np.zeros((44, 44, 4), np.float32)
    share[:, :, 0] = disc(axes, 3, (-15, 0)) + disc(axes, 3, (15, 0))
    alone = Scanner.for_grid(axes, "standard", 120).metal_hu(share, "steel")
    assert not alone[:, :, 3].any()
    share[:] = share[:, :, :1]
    alone = Scanner.for_grid(axes, "standard", 120).metal_hu(share, "steel")[:, :, 1]
    within = rods("steel", 1.0)
    assert np.corrcoef(alone.ravel(), within.ravel())[0, 1] > 0.97
    assert alone[20:24, 21:23].mean() == pytest.approx(within[20:24, 21:23].mean(), rel=0.35)


def test_bone_hardens_the_beam_less_than_metal_but_visibly():
    between = {name: rods(name, 1.0)[20:24, 21:23].mean() for name in ("bone", "titanium", "steel")}
    assert between["steel"] < between["titanium"] < between["bone"] < -2


def test_motion_streaks_and_a_heart_that_stands_still_does_not():
    axes = scan_axes(2, 44, 1.5)
    scanner = Scanner.for_grid(axes, "standard", 120)
    grid = surroundings(axes, 3, 4)
    around = np.repeat(disc(grid.axes, 100)[:, :, None, None], 2, 3)

    def image(*places):
        beats = [np.repeat((1 + 0.4 * disc(axes, 8, (x, 0)))[:, :, None, None], 2, 3) for x in places]
        return scanner.image(beats, around, grid, ["water"], np.random.default_rng(0))[:, :, 0]

    still, moving = image(0.0), image(-4.0, 0.0, 4.0)
    np.testing.assert_allclose(image(0.0, 0.0), still, atol=0.5)
    outside = disc(axes, 16) == 0
    assert np.abs(moving[outside]).max() > 5 * np.abs(still[outside]).max()
    assert moving[22, 22] == pytest.approx(still[22, 22], rel=0.15)


def test_what_surrounds_the_field_of_view_counts_and_is_not_seen():
    axes = scan_axes(2, 64, 1.0)
    image, *_ = water_scan(Scanner.for_grid(axes, "standard", 120), radius_mm=120.0)
    assert np.abs(image).max() < 25
    assert np.abs(image[4:-4, 4:-4]).max() < 12

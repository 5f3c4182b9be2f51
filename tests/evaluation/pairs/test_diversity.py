"""Similarity within pairs: against an independent SSIM, and for cohorts that repeat themselves or are noisy."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from skimage.metrics import structural_similarity

from voxpair.core.case import Case
from voxpair.core.labels import HIPPOCAMPUS
from voxpair.evaluation.pairs.diversity import compare, compare_pairs, describe


def scan(seed, side=24, affine=None, offset=0.0):
    """A smooth volume: an anatomy that all share, and half as much that no other has."""
    fields = [ndimage.gaussian_filter(np.random.default_rng(s).normal(size=(side,) * 3), 2.0) for s in (10**6, seed)]
    shared, own = (field / field.std() for field in fields)
    image = (600 * shared + 300 * own + offset).astype(np.float32)
    return Case(f"case{seed}", image, None, np.eye(4) if affine is None else affine, HIPPOCAMPUS, patient=f"case{seed}")


def thumbnails(first, count, **options):
    return [describe(scan(seed, **options), "CT") for seed in range(first, first + count)]


REAL = thumbnails(0, 8)


def test_ssim_of_one_scale_is_that_of_scikit_image():
    """Thin volumes: one scale, so the plain SSIM over all places where the window fits."""
    volumes = [thumbnail[:, :, :12] for thumbnail in REAL[:4]]
    found = compare(volumes, volumes)[0]
    pairs = [(i, j) for i in range(4) for j in range(i)]
    expected = [
        structural_similarity(
            *(volumes[i].astype(np.float64) for i in pair),
            data_range=1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for pair in pairs
    ]
    assert found.name == "ssim" and found.note.startswith("1 scale on a grid of 24 x 24 x 12")
    assert found.value == pytest.approx(np.mean(expected), abs=1e-4)


def test_fresh_cases_are_as_diverse_as_real_ones():
    found = compare(thumbnails(100, 8), REAL)[0]
    assert (found.group, found.name, found.better) == ("diversity", "ms_ssim", "floor")
    assert found.synthetic_cases == found.real_cases == 8
    assert found.low < found.floor_high and found.floor_low < found.high


def test_a_generator_that_repeats_itself_lies_above_the_floor():
    fresh = thumbnails(100, 2)
    found = compare([fresh[i == 0] for i in range(8)], REAL)[0]
    assert found.value > found.floor_high
    assert compare([fresh[0]] * 4, REAL)[0].value == pytest.approx(1, abs=1e-5)


def test_noise_lies_below_the_floor():
    random = np.random.default_rng(0)
    noisy = [np.clip(t + random.normal(0, 0.2, t.shape), 0, 1).astype(np.float16) for t in thumbnails(100, 8)]
    found = compare(noisy, REAL)[0]
    assert found.high < found.floor_low


def test_images_without_contrast_are_alike():
    flat = [np.clip(0.4 + 0.1 * t, 0, 1).astype(np.float16) for t in thumbnails(100, 8)]
    found = compare(flat, REAL)[0]
    assert found.low > found.floor_high


def test_a_thumbnail_does_not_depend_on_the_order_of_the_axes_in_the_file():
    case = scan(1)
    flipped = replace(case, image=case.image[::-1].transpose(2, 0, 1), affine=np.eye(4))
    turned = np.zeros((4, 4))
    turned[2, 0], turned[0, 1], turned[1, 2], turned[3, 3] = 1, -1, 1, 1  # where the axes of ``flipped`` point
    flipped = replace(flipped, affine=turned)
    assert np.array_equal(describe(case, "CT"), describe(flipped, "CT"))


def test_a_thumbnail_is_small_and_keeps_thin_axes():
    image = np.random.default_rng(0).normal(size=(96, 20, 7)).astype(np.float32)
    case = Case("thin", image, None, np.eye(4), HIPPOCAMPUS, patient="thin")
    found = describe(case, "MRI")
    assert found.shape == (48, 20, 7) and found.dtype == np.float16 and 0 <= found.min() < found.max() <= 1


def test_ct_keeps_its_units_and_mri_has_none():
    bright, dark = scan(1), scan(1, offset=-300)
    assert np.abs(describe(bright, "CT") - describe(dark, "CT")).mean() > 0.05
    assert np.allclose(describe(bright, "MRI"), describe(dark, "MRI"), atol=2e-3)


def test_cohorts_of_other_sizes_meet_on_the_coarser_grid():
    found = compare(thumbnails(100, 6), [np.repeat(t, 2, axis=0) for t in REAL])[0]
    assert "24 x 24 x 24" in found.note and found.value is not None


@pytest.mark.parametrize(("side", "name", "scales"), [(16, "ssim", 1), (22, "ms_ssim", 2), (44, "ms_ssim", 3)])
def test_the_name_says_how_many_scales_there_were_room_for(side, name, scales):
    volumes = [np.random.default_rng(i).random((side,) * 3).astype(np.float16) for i in range(4)]
    found = compare(volumes, volumes)[0]
    assert found.name == name and found.note.startswith(f"{scales} scale")


@pytest.mark.parametrize(("synthetic", "real"), [(0, 0), (1, 8), (8, 3)])
def test_too_few_cases_give_no_number_and_say_why(synthetic, real):
    found = compare(REAL[:synthetic], REAL[:real])[0]
    assert found.value is None and f"too few cases: {synthetic} synthetic and {real} real" in found.note


def test_pairs_are_limited_and_named_by_the_seed():
    def gap(a, b):
        return abs(float(a) - float(b))

    many = list(np.random.default_rng(0).normal(size=60))
    found, again = (compare_pairs("gap", gap, many, many[:5], seed=1) for _ in range(2))
    assert found == again and found.note == "100 synthetic and 10 real pairs"
    assert compare_pairs("gap", gap, many, many[:5], seed=2).value != found.value


def test_the_interval_knows_that_pairs_share_cases():
    """For h(a, b) = a + b the mean over all pairs is twice the mean of n cases: its standard error is known."""
    n, misses = 12, 0
    for seed in range(60):
        values = np.random.default_rng(seed).normal(size=n)
        found = compare_pairs("sum", lambda a, b: float(a + b), values, values, seed=seed)
        misses += not found.low < 0 < found.high
    assert misses <= 60 * 0.2  # 95 % nominal, short of it with 12 cases; an interval over pairs misses about half


def test_two_scans_of_one_patient_are_no_pair_and_do_not_narrow_the_interval():
    values = np.random.default_rng(0).normal(size=6)
    once = compare_pairs("gap", lambda a, b: abs(float(a - b)), values, values)
    twice = np.repeat(values, 2)
    patients = [str(i // 2) for i in range(12)]
    found = compare_pairs("gap", lambda a, b: abs(float(a - b)), values, twice, patients=patients)
    assert found.note == "15 synthetic and 60 real pairs"  # 4 for each of the 15 pairs of patients
    assert found.floor == pytest.approx(once.floor)
    assert (found.floor_high - found.floor_low) > 0.8 * (once.floor_high - once.floor_low)

"""Texture of cohorts: every number moves the right way under blur, noise, shifts of intensity and swapped classes."""

import dataclasses
import json

import numpy as np
import pytest
from scipy import ndimage

from voxpair.cohorts import volumes
from voxpair.core.case import Case
from voxpair.core.errors import InputError
from voxpair.core.labels import HIPPOCAMPUS, LabelTable
from voxpair.evaluation.pairs.texture import Tissue, compare, curves, describe, intensity_distance
from voxpair.phantom.heart_cohort import PhantomSettings, heart_cases

TABLE = LabelTable.from_mapping("shells", {"background": 0, "shell": 1, "core": 2})
SIDE = 32
_axes = np.indices((SIDE,) * 3) - (SIDE - 1) / 2
DISTANCE = np.sqrt((_axes**2).sum(axis=0))
LABELS = np.select([DISTANCE <= 7, DISTANCE <= 12], [2, 1], 0).astype(np.uint8)
CLEAN = np.select([LABELS == 2, LABELS == 1], [300.0, 100.0], -50.0)


def case(name="case", noise_hu=20.0, blur=0.6, blur_all=0.0, seed=0, labels=LABELS, spacing_mm=(1.0, 1.0, 1.0)):
    """``blur`` in voxels before the noise, ``blur_all`` after it."""
    noise = np.random.default_rng(seed).normal(0, noise_hu, CLEAN.shape)
    image = ndimage.gaussian_filter(ndimage.gaussian_filter(CLEAN, blur) + noise, blur_all)
    return Case(name, image.astype(np.float32), labels, np.diag([*spacing_mm, 1.0]), TABLE, name)


def cohort(count, first_seed, **options):
    return [describe(case(f"c{i}", seed=first_seed + i, **options), "CT") for i in range(count)]


@pytest.fixture(scope="module")
def real():
    return cohort(16, 100)


@pytest.fixture(scope="module")
def alike():
    return cohort(8, 0)


def by_name(measures):
    return {(measure.name, measure.structure): measure for measure in measures}


def test_facts_of_a_known_case():
    facts = describe(case(spacing_mm=(2.0, 2.0, 2.0)), "CT")
    assert facts.unit == "HU" and facts.voxel_mm == pytest.approx(2.0)
    core = facts.tissues["core"]
    assert core.noise.sd == pytest.approx(20, rel=0.1)
    assert np.quantile(core.levels, 0.9) == pytest.approx(300 + 1.28 * 20, abs=10)
    pure_blur = describe(case(noise_hu=0.0, blur=1.2), "CT").tissues["core"]
    assert pure_blur.edge_width_mm == pytest.approx(2.563 * 1.2, rel=0.1)


def test_a_cohort_of_the_same_kind_lies_at_the_floor(real, alike):
    found = by_name(compare(alike, real))
    assert set(found) == {
        (name, structure)
        for name in ("noise_ratio", "noise_power_distance", "noise_frequency", "intensity_distance", "edge_width")
        for structure in (None, "shell", "core")
    }
    for (name, _), measure in found.items():
        assert measure.group == "texture" and measure.note == ""
        assert measure.low <= measure.value <= measure.high
        scale = 1.5 if measure.unit in ("dB", "HU") else 0.05 * measure.floor
        assert abs(measure.value - measure.floor) < scale, name
    assert found["noise_ratio", None].value == pytest.approx(1, abs=0.05)
    units = {name: measure.unit for (name, _), measure in found.items()}
    assert units == {
        "noise_ratio": "",
        "noise_power_distance": "dB",
        "noise_frequency": "1/mm",
        "intensity_distance": "HU",
        "edge_width": "mm",
    }


def test_over_smooth_images_show_in_noise_and_edges(real):
    found = by_name(compare(cohort(8, 0, blur_all=0.7), real))
    for structure in (None, "shell", "core"):
        assert found["noise_ratio", structure].high < 0.6 < found["noise_ratio", structure].floor_low
        assert found["noise_frequency", structure].high < found["noise_frequency", structure].floor_low
        assert found["noise_power_distance", structure].low > 3 * found["noise_power_distance", structure].floor_high
        assert found["edge_width", structure].low > 1.3 * found["edge_width", structure].floor_high


def test_noise_of_twice_the_sd_is_six_decibels_away(real):
    found = by_name(compare(cohort(8, 0, noise_hu=40.0), real))
    for structure in (None, "shell", "core"):
        assert found["noise_ratio", structure].value == pytest.approx(2, rel=0.1)
        assert found["noise_power_distance", structure].value == pytest.approx(6.02, abs=1.0)
        assert found["noise_frequency", structure].value == pytest.approx(
            found["noise_frequency", structure].floor, rel=0.05
        )


def test_an_image_without_noise_is_far_off_and_not_undefined(real):
    flat = cohort(8, 0, noise_hu=0.0, blur=0.3)
    found = by_name(compare(flat, real))
    assert found["noise_ratio", "core"].value < 0.05
    assert found["noise_power_distance", "core"].value > 20
    labels = np.where(LABELS == 2, 2, 0).astype(np.uint8)
    exact = [describe(case(f"e{i}", noise_hu=0.0, blur=0.0, labels=labels), "CT") for i in range(8)]
    found = by_name(compare(exact, real))
    assert found["noise_ratio", "core"].value == 0.0
    assert found["noise_power_distance", "core"].value == pytest.approx(86, abs=2)  # 400 HU^2 mm^3 above the faintest
    assert found["noise_frequency", "core"].value is None
    assert found["noise_frequency", "core"].note == "left out as undefined: 8 synthetic, 0 real"


def test_the_intensity_distance_is_the_shift():
    levels = np.random.default_rng(1).normal(size=100)
    moved = [Tissue(levels=levels + 12.5)] * 3
    assert intensity_distance(moved, [Tissue(levels=levels)]) == pytest.approx(12.5)
    assert intensity_distance(moved, moved) == 0.0


def test_a_shift_of_thirty_units_and_swapped_classes_show_in_intensities(real, alike):
    brighter = [
        describe(dataclasses.replace(c, image=c.image + 30), "CT") for c in (case(f"b{i}", seed=i) for i in range(8))
    ]
    found = by_name(compare(brighter, real))
    for structure in (None, "shell", "core"):
        assert found["intensity_distance", structure].value == pytest.approx(30, abs=1)
        assert found["intensity_distance", structure].floor_high < 3
    swapped = cohort(8, 0, labels=np.array([0, 2, 1], np.uint8)[LABELS])
    found = by_name(compare(swapped, real))
    assert found["intensity_distance", "shell"].value == pytest.approx(200, abs=40)
    assert found["intensity_distance", "core"].value == pytest.approx(200, abs=40)


def test_mri_intensities_are_free_of_their_scale():
    plain = case()
    other = dataclasses.replace(plain, image=plain.image * 0.031 + 7)
    one, two = describe(plain, "MRI"), describe(other, "MRI")
    assert one.unit == two.unit == ""
    for name in TABLE.names:
        np.testing.assert_allclose(one.tissues[name].levels, two.tissues[name].levels, atol=1e-4)
        assert one.tissues[name].noise.sd == pytest.approx(two.tissues[name].noise.sd, rel=1e-3)


def test_a_flat_mri_cannot_be_scaled_and_is_named():
    flat = dataclasses.replace(case("blank"), image=np.zeros((SIDE,) * 3, np.float32))
    with pytest.raises(InputError, match="case blank: half of the image or more is one flat level"):
        describe(flat, "MRI")
    assert describe(flat, "CT").tissues["core"].noise.sd == 0.0


def test_structures_absent_or_too_small_are_counted(real):
    few = np.where(DISTANCE <= 2, 2, np.where(LABELS > 0, 1, 0)).astype(np.uint8)
    none = np.where(LABELS > 0, 1, 0).astype(np.uint8)
    made = [*cohort(6, 0), *cohort(1, 6, labels=few), *cohort(1, 7, labels=none)]
    assert made[6].tissues["core"].noise is None and made[6].tissues["core"].levels is not None
    assert made[7].tissues["core"] == Tissue()
    found = by_name(compare(made, real))
    assert found["noise_ratio", "core"].note == "left out as absent or too small: 2 synthetic, 0 real"
    assert found["noise_ratio", "core"].synthetic_cases == 6
    assert found["intensity_distance", "core"].note == "left out as absent or too small: 1 synthetic, 0 real"
    assert found["noise_ratio", "shell"].note == "" and found["noise_ratio", None].note == ""


def test_too_few_cases_have_no_distance_and_say_so(alike):
    found = by_name(compare(alike[:2], alike[:3]))
    assert found["noise_ratio", None].value is None and "too few cases" in found["noise_ratio", None].note
    assert found["edge_width", "core"].value is not None
    one_sided = by_name(compare(alike, []))
    assert one_sided["edge_width", "core"].floor is None


def test_a_structure_that_no_case_has_is_no_number_and_no_curve(real):
    none = np.where(LABELS > 0, 1, 0).astype(np.uint8)
    made = cohort(5, 0, labels=none)
    found = by_name(compare(made, real))
    assert found["noise_ratio", "core"].value is None and found["edge_width", "core"].value is None
    assert found["noise_ratio", None].value is not None
    assert set(curves(made, real)["histograms"]) == set(curves(made, real)["noise_power"]) == {"shell"}


def test_a_structure_that_few_cases_have_does_not_speak_for_all(real):
    none = np.where(LABELS > 0, 1, 0).astype(np.uint8)
    noisy_core = cohort(2, 0, noise_hu=80.0)
    shell_only = cohort(6, 2, labels=none)
    mixed = [dataclasses.replace(f, tissues={**f.tissues, "shell": real[0].tissues["shell"]}) for f in noisy_core]
    found = by_name(compare([*mixed, *shell_only], real))
    assert found["noise_ratio", None].value == pytest.approx(found["noise_ratio", "shell"].value, rel=0.02)


def test_cohorts_on_other_grids_say_so(real):
    found = by_name(compare(cohort(8, 0, spacing_mm=(1.5, 1.5, 1.5)), real))
    assert found["edge_width", None].note == (
        "voxels differ: 1.50 mm synthetic, 1.00 mm real; resample to one spacing to compare"
    )
    assert found["intensity_distance", None].note == ""


def test_other_label_tables_units_or_no_labels_are_refused(alike):
    with pytest.raises(InputError, match="one label table and modality"):
        compare(alike, [describe(case(), "MRI")])
    with pytest.raises(InputError, match="case c: texture is measured per structure"):
        describe(dataclasses.replace(case("c"), labels=None), "CT")


def test_curves_can_be_written_and_drawn(real, alike):
    found = json.loads(json.dumps(curves(alike, real), allow_nan=False))
    assert found["unit"] == "HU" and set(found["histograms"]) == set(TABLE.names)
    histogram, power = found["histograms"]["core"], found["noise_power"]["core"]
    assert len(histogram["edges"]) == len(histogram["real"]) + 1 == len(histogram["synthetic"]) + 1
    assert sum(histogram["real"]) == pytest.approx(1) == sum(histogram["synthetic"])
    assert len(power["frequency_per_mm"]) == len(power["real"]) == len(power["synthetic"])
    assert np.mean(power["real"]) == pytest.approx(400, rel=0.25)  # 20 HU in voxels of 1 mm^3


def test_the_same_seed_gives_the_same_measures(real, alike):
    assert compare(alike, real, 3) == compare(alike, real, 3)
    assert compare(alike, real, 3) != compare(alike, real, 4)


def test_phantom_noise_is_the_noise_that_was_put_in():
    """Beside the tissue's own texture, which the same heart without noise shows; noise varies over a scan."""
    variances = []
    for noise_hu in (25.0, 0.0):
        settings = PhantomSettings(grid=(64, 64, 48), noise_hu=noise_hu, contrast={"arterial": 1.0}, lead=0, wires=0)
        (heart,) = heart_cases(settings, 1, seed=3)
        found = describe(heart, "CT").tissues
        variances.append(np.array([found[name].noise.sd ** 2 for name in ("LA", "LV", "AO")]))
    assert np.sqrt(variances[0] - variances[1]) == pytest.approx(25, abs=9)


def test_real_hippocampi_smoothed_are_recognised(shared_data):
    folder = shared_data / "msd_hippocampus"
    paths = sorted((folder / "labelsTr").glob("hippocampus_*.nii.gz"))[:12]
    sharp, smooth = [], []
    for path in paths:
        image, affine, _ = volumes.read_image(folder / "imagesTr" / path.name)
        labels, _, _ = volumes.read_labels(path)
        one = Case(path.name.split(".")[0], image, labels.astype(np.uint8), affine, HIPPOCAMPUS, path.name)
        sharp.append(describe(one, "MRI"))
        smooth.append(describe(dataclasses.replace(one, image=ndimage.gaussian_filter(image, 0.7)), "MRI"))
    found = by_name(compare(smooth[:6], sharp))
    for structure in (None, *HIPPOCAMPUS.names):
        ratio = found["noise_ratio", structure]
        assert ratio.value < 0.85 < ratio.floor < 1.2
        assert found["noise_power_distance", structure].value > found["noise_power_distance", structure].floor_high
        assert found["noise_frequency", structure].value < found["noise_frequency", structure].floor
        assert found["edge_width", structure].value > found["edge_width", structure].floor

"""Parameters of a patient: what is drawn, and what is refused by name."""

from dataclasses import replace

import numpy as np
import pytest

from voxpair.core.errors import InputError
from voxpair.phantom import HeartParameters, PhantomSettings, draw_parameters, render
from voxpair.phantom.anatomy import _REACH
from voxpair.phantom.frame import check_field
from voxpair.phantom.heart import inflation
from voxpair.phantom.heart_cohort import voxel_axes
from voxpair.phantom.population import draw_anatomy


def patients(sex, count):
    return [
        draw_anatomy(np.random.default_rng([1, i]), sex=sex, contrast="mixed", metal="no", scan_range="cardiac")
        for i in range(count)
    ]


@pytest.mark.parametrize(
    ("sex", "name", "mean"),
    [
        ("M", "lv_volume_ml", 112.9),
        ("F", "lv_volume_ml", 98.2),
        ("M", "myo_volume_ml", 138),
        ("F", "myo_volume_ml", 103),
        ("M", "ascending_radius_mm", 17.05),
        ("F", "ascending_radius_mm", 15.95),
        ("M", "laa_volume_ml", 5.2),
        ("M", "lv_ejection", 0.634),
        ("F", "lv_ejection", 0.664),
        ("M", "la_volume_ml", 103),
        ("F", "ra_volume_ml", 69),
        ("F", "descending_radius_mm", 11.55),
        ("M", "laa_orifice_mm", 24.8),
        ("F", "laa_orifice_mm", 22.7),
    ],
)
def test_sizes_have_the_published_means(sex, name, mean):
    drawn = np.array([getattr(patient, name) for patient in patients(sex, 400)])
    assert drawn.mean() == pytest.approx(mean, abs=3 * drawn.std() / 20)


def test_chambers_grow_together():
    everyone = patients("M", 500)
    columns = [[getattr(p, f"{name}_volume_ml") for p in everyone] for name in ("lv", "rv", "la", "ra")]
    related = np.corrcoef(np.log(columns))
    assert related[0, 1] == pytest.approx(0.8, abs=0.08)
    assert related[0, 2] == pytest.approx(0.5, abs=0.10)
    assert related[1, 3] == pytest.approx(0.6, abs=0.10)


def test_there_are_more_than_forty_numbers_and_the_defaults_are_valid():
    values = HeartParameters().to_dict().values()
    assert sum(isinstance(value, int | float) for value in values) > 40


def test_appendages_come_in_their_four_shapes_and_volumes():
    everyone = patients("M", 600) + patients("F", 600)
    shares = {shape: np.mean([p.laa_morphology == shape for p in everyone]) for shape in ("windsock", "cactus")}
    assert shares["windsock"] == pytest.approx(0.467, abs=0.05)
    assert shares["cactus"] == pytest.approx(0.059, abs=0.03)
    volumes = np.array([p.laa_volume_ml for p in everyone])
    assert np.median(volumes) == pytest.approx(4.5, abs=0.3)
    assert volumes.std() == pytest.approx(3.0, abs=0.4)
    assert volumes.min() > 0.3 and volumes.max() < 22


def test_a_heart_outside_the_field_is_refused_with_the_parameter_named():
    with pytest.raises(InputError, match="offset_head_mm"):
        render(HeartParameters(offset_head_mm=160.0), PhantomSettings(grid=(16, 16, 16)))
    with pytest.raises(InputError, match="field_of_view_mm"):
        render(HeartParameters(), PhantomSettings(grid=(16, 16, 16), field_of_view_mm=(20, 20, 20)))


@pytest.mark.parametrize(
    ("offset", "value", "chamber"),
    [("right", 90.0, "LV"), ("front", 90.0, "LA"), ("right", -70.0, "RA"), ("front", -60.0, "RV")],
)
def test_every_chamber_must_have_its_middle_in_the_field(offset, value, chamber):
    patient = HeartParameters(**{f"offset_{offset}_mm": value})
    with pytest.raises(InputError, match=f"middle of the {chamber}.*'offset_{offset}_mm'"):
        render(patient, PhantomSettings(grid=(16, 16, 16)))


def test_no_drawn_heart_is_refused():
    narrow = PhantomSettings(grid=(16, 16, 16), field_of_view_mm=(150, 150, 140))
    for index in range(1000):
        parameters = draw_parameters(1, index, narrow)
        check_field(voxel_axes(parameters, narrow), parameters)


@pytest.mark.parametrize("name", [n for n, v in HeartParameters().to_dict().items() if isinstance(v, int | float)])
def test_every_number_has_a_reach_at_whose_ends_it_is_the_one_refused(name):
    low, high = _REACH[name]
    for value in (low - 1, high * 2 + 1, float("inf"), "big", None, True):
        with pytest.raises(InputError, match=f"'{name}'"):
            replace(HeartParameters(), **{name: value})


@pytest.mark.parametrize("name", ["ascending_radius_mm", "pulmonary_trunk_radius_mm", "aortic_root_radius_mm"])
def test_a_heart_can_be_built_at_both_ends_of_what_is_let_in(name):
    for value in _REACH[name]:
        inflation(replace(HeartParameters(), **{name: value}))


def test_ventricles_that_cannot_pump_the_same_are_both_named():
    with pytest.raises(InputError, match=r"'rv_volume_ml' = 134.0 and 'lv_volume_ml' = 300.0"):
        HeartParameters(lv_volume_ml=300.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("aortic_root_radius_mm", -1.0),
        ("la_volume_ml", 0.0),
        ("lv_elongation", float("nan")),
        ("epicardial_fat_mm", -0.1),
        ("laa_lobes", 5),
        ("phase", 1.2),
        ("lv_ejection", 0.95),
        ("coronary_calcium", -0.1),
        ("warp_mm", 40.0),
        ("levels_hu", {"LV": 1.0}),
        ("levels_hu", None),
        ("levels_hu.LV", {**HeartParameters().levels_hu, "LV": float("nan")}),
        ("levels_hu.RA", {**HeartParameters().levels_hu, "RA": "bright"}),
        ("levels_hu", {**HeartParameters().levels_hu, "spleen": 50.0}),
        ("detail_seed", -1),
        ("detail_seed", 0.5),
        ("laa_lobes", 2.5),
        ("lv_volume_ml", "big"),
        ("myo_volume_ml", None),
        ("thorax_half_width_mm", 20.0),
        ("coronary_radius_mm", 30.0),
        ("vertebra_radius_mm", 90.0),
        ("myo_volume_ml", 5.0),
        ("arch_height_mm", 500.0),
        ("ascending_radius_mm", 100.0),
        ("pulmonary_trunk_radius_mm", 80.0),
        ("apical_thinning", 1.5),
        ("laa_morphology", "broccoli"),
        ("sex", "X"),
        ("contrast", "venous"),
    ],
)
def test_a_bad_parameter_is_refused_by_name(name, value):
    with pytest.raises(InputError, match=name):
        replace(HeartParameters(), **{name.split(".")[0]: value})

"""Parameters of a patient: what is drawn, and what is refused by name."""

from dataclasses import replace

import numpy as np
import pytest

from voxpair.core.errors import InputError
from voxpair.phantom import HeartParameters
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
        ("M", "laa_volume_ml", 5.4),
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


def test_there_are_more_than_thirty_parameters_and_the_defaults_are_valid():
    assert len(HeartParameters().to_dict()) > 30


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("aortic_root_radius_mm", -1.0),
        ("la_volume_ml", 0.0),
        ("lv_elongation", float("nan")),
        ("epicardial_fat_mm", -0.1),
        ("laa_lobes", 5),
        ("apical_thinning", 1.5),
        ("laa_morphology", "broccoli"),
        ("sex", "X"),
        ("contrast", "venous"),
    ],
)
def test_a_bad_parameter_is_refused_by_name(name, value):
    with pytest.raises(InputError, match=name):
        replace(HeartParameters(), **{name: value})

"""The heart beat: identities between volumes that must hold at every phase."""

from dataclasses import replace

import numpy as np
import pytest

from voxpair.core.errors import InputError
from voxpair.phantom.anatomy import HeartParameters
from voxpair.phantom.cycle import base_descent, chamber_volumes
from voxpair.phantom.population import draw_anatomy

PHASES = np.linspace(0, 1, 41)


def patient(seed):
    rng = np.random.default_rng(seed)
    return draw_anatomy(rng, sex="MF"[seed % 2], contrast="mixed", metal="no", scan_range="cardiac")


def beat(p):
    """Volumes over the beat: {chamber: (41,) mL}."""
    volumes = [chamber_volumes(replace(p, phase=phase)) for phase in PHASES]
    return {name: np.array([each[name] for each in volumes]) for name in volumes[0]}


@pytest.mark.parametrize("seed", range(8))
def test_both_ventricles_pump_the_same_and_the_wall_keeps_its_volume(seed):
    p, volumes = patient(seed), beat(patient(seed))
    left, right = np.ptp(volumes["LV"]), np.ptp(volumes["RV"])
    assert right == pytest.approx(left, rel=0.05)
    assert left / volumes["LV"].max() == pytest.approx(p.lv_ejection, abs=1e-3)
    assert np.ptp(volumes["MYO"]) == 0
    assert min(values.min() for values in volumes.values()) > 0


@pytest.mark.parametrize("seed", range(4))
def test_a_beat_ends_as_it_began_and_atria_fill_while_ventricles_empty(seed):
    volumes = beat(patient(seed))
    for values in volumes.values():
        assert values[-1] == pytest.approx(values[0], rel=1e-6)
    ejecting = PHASES <= 0.35
    assert (np.diff(volumes["LV"][ejecting]) < 1e-9).all()
    assert (np.diff(volumes["LA"][ejecting]) > -1e-9).all()
    assert PHASES[volumes["LAA"].argmax()] == pytest.approx(0.45)
    assert PHASES[volumes["LAA"].argmin()] == pytest.approx(0.05)


def test_the_pericardium_holds_nearly_the_same_throughout():
    total = sum(beat(HeartParameters()).values())
    assert np.ptp(total) / total.mean() < 0.15


def test_at_rest_the_left_atrium_holds_what_was_measured():
    assert chamber_volumes(replace(HeartParameters(), phase=0.75))["LA"] == pytest.approx(72, abs=1.5)


def test_the_base_comes_down_by_a_centimetre_or_two_and_returns():
    down = [base_descent(replace(HeartParameters(), phase=phase), 1.0) for phase in (0.0, 0.35, 1.0)]
    assert down[0] == down[2] == 0
    assert 8 < down[1] < 22


def test_a_right_ventricle_too_small_for_the_stroke_is_refused_by_name():
    with pytest.raises(InputError, match="rv_volume_ml"):
        HeartParameters(rv_volume_ml=70.0)

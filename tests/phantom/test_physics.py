"""X-rays: attenuation, spectra, contrast at other voltages, and what a scanner that knows water only makes of it."""

import numpy as np
import pytest
from scipy.optimize import brentq

from voxpair.core.errors import InputError
from voxpair.phantom.layers import Layer
from voxpair.phantom.materials import amounts, level_at
from voxpair.phantom.physics import attenuation, beam, contrast_gain

VOLTAGES = (70, 80, 100, 120, 140)
FAR = np.zeros((1, 1, 1), np.float32)


def read(tube, **paths):
    return tube.water_path(tube.signal({name: np.array([float(path)]) for name, path in paths.items()}))[0]


def test_attenuation_keeps_the_table_and_jumps_at_the_k_edge_of_iodine():
    assert attenuation("water", np.array([60.0]))[0] == pytest.approx(0.02059)
    assert attenuation("steel", np.array([100.0]))[0] == pytest.approx(0.3717 * 7.874 / 10)
    before, after = attenuation("iodine", np.array([33.1, 33.2]))
    assert after / before == pytest.approx(5.4, rel=0.03)
    between = attenuation("water", np.array([70.0]))[0]
    assert between == pytest.approx(np.sqrt(0.02059 * 0.01837), rel=0.01)


@pytest.mark.parametrize("voltage", VOLTAGES)
def test_a_spectrum_is_normal_and_ends_at_its_voltage(voltage):
    tube = beam(voltage)
    assert tube.weights.sum() == pytest.approx(1)
    assert (tube.weights > 0).all()
    assert 20 < tube.energies_kev.min() < tube.energies_kev.max() < voltage


def test_the_half_value_layer_at_120_kv_is_that_of_ct_scanners():
    tube = beam(120)
    aluminium = attenuation("aluminium", tube.energies_kev)
    thickness = brentq(lambda mm: tube.weights @ np.exp(-aluminium * mm) - 0.5, 1, 30)
    assert 6.5 < thickness < 9.5


@pytest.mark.parametrize(("voltage", "published"), [(100, 1.3), (80, 1.7), (70, 1.9)])
def test_iodine_brightens_with_falling_voltage_as_published(voltage, published):
    assert contrast_gain("iodine", voltage) == pytest.approx(published, rel=0.1)


def test_a_milligram_of_iodine_is_worth_about_25_hu():
    assert beam(120).hu_per_unit("iodine") / 1000 == pytest.approx(25, abs=3)


@pytest.mark.parametrize("voltage", VOLTAGES)
def test_water_is_read_as_water_however_thick(voltage):
    for path in (0, 3, 50, 240, 400):
        assert read(beam(voltage), water=path) == pytest.approx(path, abs=0.05)


def test_metal_and_bone_harden_the_beam_so_that_two_look_like_less_than_twice_one():
    for name, amount in (("iodine", 1.0), ("bone", 20.0), ("titanium", 3.0), ("steel", 3.0)):
        once, twice = (read(beam(120), water=200, **{name: factor * amount}) - 200 for factor in (1, 2))
        assert once < twice < 0.97 * 2 * once, name


def test_a_voltage_that_no_scanner_has_is_refused_by_name():
    with pytest.raises(InputError, match=r"'tube_voltage_kv'.*70, 80, 100, 120, 140.*90"):
        beam(90)


@pytest.mark.parametrize(
    ("tissue", "level_hu"),
    [("air", -1000.0), ("lung", -860.0), ("fat", -95.0), ("soft", 40.0), ("blood", 400.0), ("bone", 750.0)],
)
def test_amounts_of_material_give_the_level_back(tissue, level_hu):
    water, bone, iodine = amounts(Layer(FAR, level_hu, tissue=tissue))
    tube = beam(120)
    found = 1000 * (water - 1) + bone * tube.hu_per_unit("bone") + iodine * tube.hu_per_unit("iodine")
    assert found == pytest.approx(level_hu)
    assert level_at(Layer(FAR, level_hu, tissue=tissue), 120) == level_hu


def test_only_contrast_and_mineral_depend_on_the_voltage():
    for tissue, level_hu in (("lung", -860.0), ("fat", -95.0), ("blood", 42.0), ("soft", 50.0)):
        assert level_at(Layer(FAR, level_hu, tissue=tissue), 80) == pytest.approx(level_hu)
    levels = np.array([42.0, 142.0])
    np.testing.assert_allclose(
        level_at(Layer(FAR, levels, tissue="blood"), 80), [42, 42 + 100 * contrast_gain("iodine", 80)]
    )

"""What readers draw: wavering outlines of the asked size, gaps where structures touch, an end of PA of their own."""

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, distance_transform_edt

from voxpair.core.errors import InputError
from voxpair.core.labels import CARDIAC8
from voxpair.core.settings import override
from voxpair.phantom.anatomy import HeartParameters
from voxpair.phantom.annotation import AnnotationSettings, as_drawn, outlined_layers, pulmonary_shift
from voxpair.phantom.layers import label_map
from voxpair.phantom.scene import build_scene

AXES = [np.arange(-24.0, 25.0, 1.0)] * 3


def two_halves_of_a_ball():
    x, y, z = np.meshgrid(*AXES, indexing="ij")
    ball = x**2 + y**2 + z**2 < 18**2
    return np.where(ball, np.where(x < 0, 1, 2), 0).astype(np.uint8)


def drawn(seed=0, **settings):
    return as_drawn(two_halves_of_a_ball(), AXES, AnnotationSettings(**settings), np.random.default_rng(seed))


def test_a_reader_who_never_wavers_copies_the_truth():
    np.testing.assert_array_equal(drawn(boundary_mm=0), two_halves_of_a_ball())


@pytest.mark.parametrize("size_mm", [0.5, 1.0, 2.0])
def test_outlines_waver_by_what_was_asked(size_mm):
    distance = np.linalg.norm(np.meshgrid(*AXES, indexing="ij"), axis=0) - 18
    off = []
    for seed in range(6):
        inside = drawn(seed, boundary_mm=size_mm) > 0
        surface = inside & ~binary_dilation(~inside, iterations=1) ^ inside
        off.append(distance[surface] + 0.5)
    assert np.std(np.concatenate(off)) == pytest.approx(np.hypot(size_mm, 0.3), rel=0.2)
    assert abs(np.mean(np.concatenate(off))) < 0.25


def test_neighbours_keep_their_common_border():
    labels = drawn(boundary_mm=1.5)
    inner = distance_transform_edt(labels > 0) > 4
    assert set(np.unique(labels[inner])) == {1, 2}


@pytest.mark.parametrize("gaps", [1, 2])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gaps_are_as_many_voxels_of_background_between_structures(gaps, axis):
    halves = np.moveaxis(two_halves_of_a_ball(), 0, axis)
    labels = as_drawn(halves, AXES, AnnotationSettings(boundary_mm=0, gaps=gaps), np.random.default_rng(0))
    assert not (binary_dilation(labels == 1, iterations=gaps) & (labels == 2)).any()
    removed = (halves > 0) & (labels == 0)
    assert removed.sum() == gaps * (np.moveaxis(halves > 0, axis, 0)[24]).sum()


@pytest.mark.parametrize("gaps", [1, 2])
def test_both_sides_of_a_gap_lose_alike(gaps):
    halves = two_halves_of_a_ball()
    lost = np.zeros(2)
    for seed in range(20):
        labels = drawn(seed, boundary_mm=0, gaps=gaps)
        lost += [((halves == value) & (labels != value)).sum() for value in (1, 2)]
    assert lost[0] / lost.sum() == pytest.approx(0.5, abs=0.05)


def test_no_chamber_of_a_heart_loses_more_to_its_neighbour_than_it_takes():
    axes = [np.arange(low, high, 4.0) for low, high in ((-90, 110), (-90, 100), (-90, 100))]
    labels = label_map(outlined_layers(build_scene(axes, HeartParameters()), 0.0))
    lost = {}
    for seed in range(8):
        settings = AnnotationSettings(boundary_mm=0, gaps=1)
        gone = (as_drawn(labels, axes, settings, np.random.default_rng(seed)) == 0) & (labels > 0)
        for first, second in (("MYO", "LV"), ("MYO", "RV"), ("LA", "LAA")):
            one, other = (labels == CARDIAC8.value_of(name) for name in (first, second))
            border = one & binary_dilation(other), other & binary_dilation(one)
            found = [(gone & side).sum() / side.sum() for side in border]
            lost[first, second] = np.add(lost.get((first, second), 0), found)
    for pair, (first, second) in lost.items():
        assert first / (first + second) == pytest.approx(0.5, abs=0.12), pair


def test_without_gaps_nothing_is_drawn_from_the_reader():
    rng = np.random.default_rng(0)
    as_drawn(two_halves_of_a_ball(), AXES, AnnotationSettings(boundary_mm=0), rng)
    assert rng.random() == np.random.default_rng(0).random()


def test_the_same_reader_draws_the_same():
    np.testing.assert_array_equal(drawn(3, boundary_mm=1), drawn(3, boundary_mm=1))
    assert (drawn(3, boundary_mm=1) != drawn(4, boundary_mm=1)).any()


def test_readers_leave_out_trabeculae_and_end_the_pulmonary_artery_where_they_like():
    axes = [np.arange(low, high, 3.0) for low, high in ((-90, 110), (-90, 100), (-90, 100))]
    scene = build_scene(axes, HeartParameters())
    clean, normal = label_map(scene.layers), label_map(outlined_layers(scene, 0.0))
    lv, myo, pa = (CARDIAC8.value_of(name) for name in ("LV", "MYO", "PA"))
    assert (normal == lv).sum() > 1.02 * (clean == lv).sum()
    assert ((clean == myo) & (normal == lv)).sum() > 50
    assert (binary_dilation(normal == CARDIAC8.value_of("RV")) & (normal == pa)).any()
    shortest = label_map(outlined_layers(scene, -15.0))
    assert (binary_dilation(shortest == CARDIAC8.value_of("RV")) & (shortest == pa)).sum() > 5  # the trunk is whole
    sizes = [(label_map(outlined_layers(scene, shift)) == pa).sum() for shift in (-12.0, 0.0, 12.0)]
    assert sizes[0] < 0.95 * sizes[1] < 0.9 * sizes[2]


def test_the_end_of_the_pulmonary_artery_varies_by_what_was_asked():
    rng = np.random.default_rng(0)
    shifts = [pulmonary_shift(AnnotationSettings(pulmonary_mm=5), rng) for _ in range(600)]
    assert np.std(shifts) == pytest.approx(5, rel=0.1)


@pytest.mark.parametrize(
    "assignment", ["boundary_mm=-1", "pulmonary_mm=-2", "boundary_mm=9", "gaps=3", "gaps=-1", "gaps=0.5"]
)
def test_impossible_readers_are_refused_by_name(assignment):
    with pytest.raises(InputError, match=assignment.split("=")[0]):
        override(AnnotationSettings(), [assignment])

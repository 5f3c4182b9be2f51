"""Labels against their image: exact, moved by a voxel, too wide, without contrast, swapped, absent."""

import dataclasses
import json

import numpy as np
import pytest
from scipy.special import ndtr

from voxpair.cohorts import volumes
from voxpair.core.case import Case
from voxpair.core.errors import InputError
from voxpair.core.labels import HIPPOCAMPUS, LabelTable
from voxpair.evaluation.pairs.alignment import AlignmentFacts, compare, describe, rigid_shift
from voxpair.evaluation.pairs.edges import find_edges
from voxpair.phantom.heart_cohort import PhantomSettings, heart_cases

TABLE = LabelTable.from_mapping("balls", {"background": 0, "left": 1, "right": 2})
SHAPE, CENTRES, RADIUS = (26, 48, 26), ((12.5, 12.5, 12.5), (12.5, 34.5, 12.5)), 7.0
DISTANCES = [np.sqrt(sum((axis - c) ** 2 for axis, c in zip(np.indices(SHAPE), centre))) for centre in CENTRES]


def balls(name="balls", noise=0.0, seed=0, wider=0.0, contrasts=(200.0, 80.0), spacing_mm=(1.0, 1.0, 1.0)):
    image = sum(c * ndtr((RADIUS - distance) / 0.7) for c, distance in zip(contrasts, DISTANCES))
    image = image + np.random.default_rng(seed).normal(0, noise, SHAPE)
    labels = sum(value * (d <= RADIUS + wider) for value, d in zip((1, 2), DISTANCES)).astype(np.uint8)
    return Case(name, image.astype(np.float32), labels, np.diag([*spacing_mm, 1.0]), TABLE, name)


def moved(case, axis, voxels=1):
    return dataclasses.replace(case, labels=np.roll(case.labels, voxels, axis))


def by_name(measures):
    return {(measure.name, measure.structure): measure for measure in measures}


@pytest.mark.parametrize("noise", [0.0, 20.0])
def test_exact_labels_lie_on_their_edges(noise):
    case = balls(noise=noise)
    for found in describe(case, case.labels).structures.values():
        assert found.dice == 1.0
        assert found.edge_share > 0.95 and found.edge_ratio > 3
        assert abs(found.edge_offset_mm) <= 0.25
        assert found.edge_spread_mm < 0.6 and found.label_shift_mm < 0.15


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 1.5, 1.0)])
def test_labels_shifted_by_one_voxel_have_moved_by_one_voxel(axis, spacing):
    case = balls(noise=10.0, spacing_mm=spacing)
    exact, shifted = describe(case, None), describe(moved(case, axis), None)
    for name in TABLE.names:
        before, after = exact.structures[name], shifted.structures[name]
        assert after.label_shift_mm == pytest.approx(spacing[axis], rel=0.15)
        assert after.edge_ratio < before.edge_ratio and after.edge_spread_mm > before.edge_spread_mm + 0.5
    mask = moved(case, axis).labels == 1
    edges = find_edges(case.image, mask, spacing)
    expected = np.zeros(3)
    expected[axis] = -spacing[axis]  # the labels went forward, so the edges lie behind
    assert rigid_shift(edges.offset_mm, edges.normals) == pytest.approx(expected, abs=0.15 * spacing[axis])


@pytest.mark.parametrize("wider", [-1.0, 1.0])
def test_labels_too_wide_move_the_offset_and_not_the_shift(wider):
    exact, other = describe(balls(), None), describe(balls(wider=wider), None)
    for name in TABLE.names:
        change = other.structures[name].edge_offset_mm - exact.structures[name].edge_offset_mm
        assert change == pytest.approx(-wider, abs=0.26)
        assert other.structures[name].label_shift_mm < 0.15


def test_a_structure_like_its_neighbour_has_no_offset_and_says_how_much_was_left_out():
    facts = describe(balls(noise=15.0, contrasts=(200.0, 0.0)), None).structures
    assert facts["left"].edge_share > 0.95 and facts["left"].edge_offset_mm is not None
    assert facts["right"].edge_share < 0.05 and facts["right"].edge_ratio == pytest.approx(1, abs=0.25)
    assert facts["right"].edge_offset_mm is facts["right"].edge_spread_mm is facts["right"].label_shift_mm is None


def test_a_flat_image_has_no_edge_and_no_ratio():
    found = describe(balls(contrasts=(0.0, 0.0)), None).structures["left"]
    assert found.edge_share == 0.0 and found.edge_ratio is None and found.edge_offset_mm is None


def test_dice_of_absent_structures():
    case = balls()
    left_only = np.where(case.labels == 1, 1, 0).astype(np.uint8)
    invented = describe(dataclasses.replace(case, labels=left_only), case.labels).structures["right"]
    missed = describe(case, left_only).structures["right"]
    absent = describe(dataclasses.replace(case, labels=left_only), left_only).structures["right"]
    assert invented.dice == missed.dice == 0.0 and absent.dice is None
    assert invented.edge_share is None and missed.edge_share > 0.95


def test_swapped_classes_have_no_dice_and_a_shift_lowers_it():
    case = balls()
    swapped = describe(case, np.array([0, 2, 1], np.uint8)[case.labels])
    assert [found.dice for found in swapped.structures.values()] == [0.0, 0.0]
    half = describe(case, moved(case, 0).labels).structures["left"].dice
    apart, radius = 1.0, RADIUS
    lens = (4 * radius + apart) * (2 * radius - apart) ** 2 / (16 * radius**3)  # share of two equal balls
    assert half == pytest.approx(lens, abs=0.02)


def cohort(count, first, make=lambda case: case, predict=lambda case: case.labels):
    cases = [make(balls(f"c{i}", noise=15.0, seed=first + i)) for i in range(count)]
    return [describe(case, predict(case)) for case in cases]


def test_measures_tell_a_shifted_cohort_from_an_exact_one():
    real = cohort(4, 100)
    exact, shifted = by_name(compare(cohort(4, 0), real)), by_name(compare(cohort(4, 0, lambda c: moved(c, 2)), real))
    assert {name for name, _ in exact} == {
        "dice",
        "edge_share",
        "edge_ratio",
        "edge_offset",
        "edge_spread",
        "label_shift",
    }
    for structure in (None, *TABLE.names):
        assert exact["dice", structure].value == 1.0 and exact["dice", structure].better == "higher"
        assert shifted["label_shift", structure].value == pytest.approx(1, abs=0.15)
        assert exact["label_shift", structure].value < 0.2 and exact["label_shift", structure].unit == "mm"
        assert shifted["edge_spread", structure].low > exact["edge_spread", structure].high
        assert shifted["edge_ratio", structure].high < exact["edge_ratio", structure].low
        assert exact["edge_ratio", structure].value == pytest.approx(exact["edge_ratio", structure].floor, rel=0.15)


def test_what_is_undefined_is_counted_and_never_not_a_number():
    def without_right(case):
        return dataclasses.replace(case, labels=np.where(case.labels == 1, 1, 0).astype(np.uint8))

    made = [*cohort(2, 0), *cohort(1, 2, without_right)]
    measures = compare(made, cohort(3, 10))
    found = by_name(measures)
    assert found["dice", "right"].synthetic_cases == 2
    assert found["dice", "right"].note == "left out as undefined: 1 synthetic, 0 real"
    assert found["dice", None].synthetic_cases == 3 and found["dice", None].note == ""
    json.dumps([dataclasses.asdict(measure) for measure in measures], allow_nan=False)
    json.dumps([facts.row() for facts in made], allow_nan=False)
    assert made[0].row()["alignment_dice"] == 1.0


def test_without_a_segmenter_there_is_no_dice_and_without_real_cases_no_floor():
    made = cohort(2, 0, predict=lambda case: None)
    found = by_name(compare(made, []))
    assert ("dice", None) not in found
    assert found["edge_ratio", None].value > 2 and found["edge_ratio", None].floor is None
    assert made[0].row()["alignment_dice"] is None
    assert compare([], []) == compare([], []) and all(m.value is None for m in compare([], []))


def test_what_cannot_be_compared_is_refused():
    case = balls("odd")
    with pytest.raises(InputError, match="case odd: alignment is that of labels with their image"):
        describe(dataclasses.replace(case, labels=None), None)
    with pytest.raises(InputError, match=r"the predicted labels have shape \(2, 2, 2\)"):
        describe(case, np.zeros((2, 2, 2), np.uint8))
    with pytest.raises(InputError, match="case odd, predicted labels: label value 9"):
        describe(case, np.full(SHAPE, 9, np.uint8))
    with pytest.raises(InputError, match="1 cases were not given to the segmenter, such as odd"):
        compare([describe(case, None)], [describe(case, case.labels)])
    with pytest.raises(InputError, match="one label table"):
        compare([describe(case, None)], [AlignmentFacts("other", "other", False, {})])


def test_phantom_hearts_are_aligned_until_their_labels_move():
    settings = PhantomSettings(grid=(72, 72, 60), contrast={"arterial": 1.0}, lead=0, wires=0)
    (heart,) = heart_cases(settings, 1, seed=8)
    exact = describe(heart, None).structures["LV"]
    assert exact.edge_share > 0.8 and exact.edge_ratio > 1.5
    for axis in range(3):
        shifted = describe(moved(heart, axis), None).structures["LV"]
        assert shifted.edge_ratio < exact.edge_ratio
        assert shifted.edge_spread_mm > exact.edge_spread_mm


def test_real_hippocampi_have_edges_on_their_labels(shared_data):
    folder = shared_data / "msd_hippocampus"
    ratios, shifted = [], []
    for path in sorted((folder / "labelsTr").glob("hippocampus_*.nii.gz"))[:8]:
        image, affine, _ = volumes.read_image(folder / "imagesTr" / path.name)
        labels, _, _ = volumes.read_labels(path)
        case = Case(path.name.split(".")[0], image, labels.astype(np.uint8), affine, HIPPOCAMPUS, path.name)
        ratios.append(describe(case, None).row()["alignment_edge_ratio"])
        shifted.append(describe(moved(case, 1, 3), None).row()["alignment_edge_ratio"])
    assert np.mean(ratios) > 1.5 and np.mean(shifted) < 0.85 * np.mean(ratios)

"""Plausible anatomy: closed forms on built label maps, planted defects in phantom hearts, real maps that pass."""

import json
from dataclasses import asdict, replace

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from voxpair.core.case import Case
from voxpair.core.errors import InputError
from voxpair.core.labels import ACDC, CARDIAC8, HIPPOCAMPUS, LabelTable
from voxpair.evaluation.anatomy.facts import describe
from voxpair.evaluation.anatomy.rules import (
    RULES,
    Contact,
    Order,
    kept_by,
    known_rules,
    learn_contacts,
    learn_orders,
    mirrored_axes,
)
from voxpair.evaluation.pairs.plausibility import compare
from voxpair.phantom.heart_cohort import PhantomSettings, heart_cases

ABC = LabelTable.from_mapping("abc", {"A": 1, "B": 2, "C": 3})


def case(labels, spacing=(1.0, 1.0, 1.0), table=ABC, affine=None, name="built"):
    affine = np.diag([*spacing, 1.0]) if affine is None else affine
    return Case(name, np.zeros(labels.shape, np.float32), labels.astype(np.uint8), affine, table, name)


def changed(heart, labels):
    return replace(heart, labels=labels.astype(np.uint8))


def halves(size=24):
    """A on the left, B on the right, and a solid block of C in a far corner of A."""
    labels = np.full((size, size, size), 1)
    labels[size // 2 :] = 2
    labels[:5, :5, :5] = 3
    return labels


@pytest.fixture(scope="module")
def hearts():
    return list(heart_cases(PhantomSettings(grid=(36, 36, 36)), 14, seed=3))


@pytest.fixture(scope="module")
def whole_hearts():
    """Hearts that no border of the image cuts: what it hides is not judged."""
    settings = PhantomSettings(grid=(48, 48, 60), field_of_view_mm=(192, 192, 240))
    return list(heart_cases(settings, 4, seed=3))


@pytest.fixture(scope="module")
def facts(hearts):
    return [describe(heart) for heart in hearts]


# Third-class voxels


def test_dots_between_two_structures_are_third_class():
    labels = halves()
    clean = describe(case(labels))
    dots = [(11, 10, 10), (12, 10, 14), (11, 18, 18), (12, 18, 18)]  # the last two make one dot of two voxels
    for dot in dots:
        labels[dot] = 3
    found = describe(case(labels))
    assert clean.third_class_rate() == 0.0
    assert found.structures["C"].third_class_voxels == len(dots)
    assert found.third_class_rate() == len(dots) / found.boundary_voxels


def test_a_film_counts_though_it_hangs_together_with_its_structure():
    labels = halves()
    labels[8:16, :, :5] = 3  # C has a body at one end of the border of A and B
    body = describe(case(labels)).structures["C"]
    labels[12, :, 5:] = 3  # and creeps from there along the whole border, one voxel thick
    film = describe(case(labels)).structures["C"]
    assert body.third_class_voxels == 0
    assert film.third_class_voxels == 24 * 17  # of 24 x 19 voxels, those at z = 5 and 6 lie within 2 of the core
    assert film.pieces == 2  # the corner block and the body: the film is no piece of its own


@pytest.mark.parametrize("degrees", [120, 90, 60])
def test_a_true_junction_of_three_structures_is_not(degrees):
    x, y = np.meshgrid(np.arange(-20, 20) + 0.3, np.arange(-20, 20) + 0.2, indexing="ij")
    angle = np.degrees(np.arctan2(y, x))
    flat = np.where(np.abs(angle - 17) < degrees / 2, 3, np.where(y - np.tan(np.radians(17)) * x > 0, 1, 2))
    labels = np.repeat(flat[:, :, None], 12, axis=2)
    assert describe(case(labels)).third_class_rate() == 0.0


def test_neither_a_speck_within_one_structure_nor_a_solid_piece_is_third_class():
    labels = halves()
    labels[5, 15, 15] = 3
    labels[9:14, 9:14, 9:14] = 3
    found = describe(case(labels))
    assert found.third_class_rate() == 0.0
    assert found.structures["C"].pieces == 3


def test_thick_slices_are_judged_one_by_one():
    labels = np.ones((20, 20, 3))
    labels[10:] = 2
    labels[4:16, 4:16, 1] = 3  # solid within its slice, absent from both neighbours
    assert describe(case(labels, (1, 1, 5))).third_class_rate() == 0.0
    assert describe(case(labels, (1, 1, 1))).third_class_rate() > 0.1
    labels[4:16, 4:16, 1] = 1
    labels[10:16, 4:16, 1] = 2
    labels[10, 10, 1] = 3
    assert describe(case(labels, (1, 1, 5))).structures["C"].third_class_voxels == 1


def test_a_colour_code_makes_third_class_voxels_and_one_hot_does_not():
    (heart,) = heart_cases(PhantomSettings(grid=(48, 48, 48)), 1, seed=3)
    colours = np.array(
        [[0, 0, 0], [1, 1, 1], [0, 0, 1], [1, 0, 0], [0, 1, 1], [0, 1, 0], [1, 1, 0], [1, 0, 1], [1, 0.5, 0]]
    )
    one_hot = np.eye(9)

    def blurred_and_decoded(codes):
        image = np.stack([ndimage.gaussian_filter(plane, 0.6) for plane in np.moveaxis(codes[heart.labels], -1, 0)], -1)
        return ((image[..., None, :] - codes) ** 2).sum(axis=-1).argmin(axis=-1)

    real, colour, softmax = (
        describe(changed(heart, labels)).third_class_rate()
        for labels in (heart.labels, blurred_and_decoded(colours), blurred_and_decoded(one_hot))
    )
    assert real < 0.02 and softmax < real + 0.001
    assert colour > real + 0.04


# Facts of one structure


def test_a_torus_a_shell_and_pieces():
    x, y, z = np.meshgrid(*[np.arange(-15, 16)] * 3, indexing="ij")
    labels = np.zeros(x.shape)
    labels[(np.hypot(x, y) - 9) ** 2 + z**2 <= 9] = 1  # one tunnel
    labels[12:19, 12:19, 24:31] = 2  # a cube of 7³ with a hollow of 3³
    labels[14:17, 14:17, 26:29] = 0
    labels[2:4, 2:4, 2:4] = 2  # and a stray piece of 2³
    spacing = (1.0, 1.5, 2.0)
    torus, shell = (describe(case(labels, spacing)).structures[name] for name in "AB")
    assert (torus.pieces, torus.euler, torus.holes_ml, torus.stray_share) == (1, 0, 0.0, 0.0)
    assert torus.volume_ml == pytest.approx(np.count_nonzero(labels == 1) * 3 / 1000)
    assert torus.centroid_mm == pytest.approx((15.0, 22.5, 30.0))
    assert (shell.pieces, shell.euler) == (2, 1 + 2)  # two pieces and a cavity
    assert shell.holes_ml == pytest.approx(27 * 3 / 1000)
    assert shell.stray_share == pytest.approx(8 / (7**3 - 27 + 8))


def test_a_piece_at_the_border_of_the_image_is_not_stray():
    labels = np.zeros((20, 20, 20))
    labels[5:10, 5:10, 5:10] = 1
    labels[15:17, 15:17, 15:17] = 1
    labels[15:17, 15:17, 18:] = 2
    assert describe(case(labels)).structures["A"].stray_share == pytest.approx(8 / 133)
    labels[labels == 2] = 1
    labels[15:17, 15:17, 17] = 1
    assert describe(case(labels)).structures["A"].stray_share == 0.0
    assert describe(case(labels)).structures["A"].pieces == 2


def test_contact_is_an_area():
    labels = np.zeros((10, 10, 10))
    labels[2:5, 2:6, 0:5] = 1
    labels[5:8, 2:6, 0:5] = 2
    found = describe(case(labels, (1.0, 2.0, 3.0)))
    assert found.contact_mm2[1, 2] == found.contact_mm2[2, 1] == 4 * 5 * 2 * 3
    assert found.border_mm2[1] == 3 * 4 * 1 * 2  # the face z = 0
    assert found.contact_mm2[1].sum() + found.border_mm2[1] == 2 * (4 * 5 * 6 + 3 * 5 * 3 + 3 * 4 * 2)


def test_turning_the_array_and_its_affine_changes_nothing(hearts):
    heart = hearts[0]
    turned = np.moveaxis(heart.labels[::-1], (0, 1, 2), (1, 2, 0))  # new voxel (c, a, b) is old (n - 1 - a, b, c)
    to_old = np.array([[0, -1, 0, heart.labels.shape[0] - 1], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]], float)
    one, other = describe(heart), describe(case(turned, affine=heart.affine @ to_old, table=CARDIAC8))
    for name, found in one.structures.items():
        same = other.structures[name]
        assert same.volume_ml == pytest.approx(found.volume_ml)
        assert same.centroid_mm == pytest.approx(found.centroid_mm)
        assert (same.pieces, same.euler, same.holes_ml) == (found.pieces, found.euler, found.holes_ml)
        assert same.third_class_voxels == found.third_class_voxels
    np.testing.assert_allclose(one.contact_mm2, other.contact_mm2)


def test_an_empty_map_and_a_missing_one(hearts):
    empty = describe(changed(hearts[0], np.zeros_like(hearts[0].labels)))
    assert empty.third_class_rate() is None and not empty.present("LV")
    assert {rule.judge(empty).state for rule in RULES["cardiac8"]} == {"not judged"}
    assert all(np.isfinite(cell) for cell in empty.row().values() if cell != "")
    with pytest.raises(InputError, match=r"heart_0000 has no labels, so its anatomy cannot be judged"):
        describe(replace(hearts[0], labels=None))


# Rules


def test_phantom_hearts_obey_every_rule(facts):
    assert {rule.judge(found).state for found in facts for rule in RULES["cardiac8"]} == {"holds"}


def relabel(old, new):
    return lambda labels: np.where(labels == CARDIAC8.value_of(old), CARDIAC8.value_of(new) if new else 0, labels)


def leak(labels):
    """The right ventricle breaks through the septum."""
    near = ndimage.binary_dilation(labels == CARDIAC8.value_of("RV"), iterations=3)
    return np.where(near & (labels == CARDIAC8.value_of("MYO")), CARDIAC8.value_of("RV"), labels)


def moved_appendage(labels):
    appendage = labels == CARDIAC8.value_of("LAA")
    return np.where(np.roll(appendage, -6, axis=0), CARDIAC8.value_of("LAA"), np.where(appendage, 0, labels))


@pytest.mark.parametrize(
    ("defect", "broken"),
    [
        (leak, "LV lies apart from RV"),
        (relabel("MYO", None), "LV is enclosed by MYO, LA, AO"),
        (moved_appendage, "LAA touches LA"),
        (lambda labels: np.where(labels == 6, 7, np.where(labels == 7, 6, labels)), "AO touches LV"),
    ],
)
def test_a_planted_defect_breaks_its_rule(whole_hearts, defect, broken):
    for heart in whole_hearts:
        found = describe(changed(heart, defect(heart.labels)))
        findings = {str(rule): rule.judge(found) for rule in RULES["cardiac8"]}
        assert findings[broken].state == "broken"
        assert "of its surface on" in findings[broken].reason


def test_what_the_border_of_the_image_hides_is_not_judged():
    labels = np.zeros((12, 12, 12))
    labels[4:8, 4:8, 0:4] = 1  # cut below: 16 of its 96 mm² are hidden
    labels[4:8, 4:8, 8:10] = 2
    found = describe(case(labels))
    assert Contact("A", ("B",), least=0.1).judge(found).state == "not judged"
    assert Contact("A", ("B",), least=0.2).judge(found).state == "broken"  # not even the hidden part could do it
    assert Contact("B", ("A",), least=0.1).judge(found).state == "broken"  # B lies in full view
    labels[4:8, 4:8, 4] = 2
    labels[4:8, 4:8, 8:10] = 0
    touching = describe(case(labels))
    assert Contact("A", ("B",), least=0.1).judge(touching).state == "holds"
    assert Contact("A", ("B",), most=0.18).judge(touching).state == "not judged"  # 16 / 80 in view, 16 / 96 at best
    assert Contact("A", ("B",), most=0.1).judge(touching).state == "broken"
    assert Order("A", "B", "up").judge(touching).state == "not judged"
    assert Order("B", "A", "up").judge(touching).state == "holds"


def test_a_table_without_rules_learns_who_touches_whom(facts):
    learnt = {str(rule) for rule in learn_contacts(facts)}
    assert {"LA touches LAA", "MYO touches LV", "RA touches RV"} <= learnt
    assert "LV touches RV" not in learnt and "LA touches RV" not in learnt
    assert learn_contacts(facts[:7]) == ()


def test_rules_go_by_the_structures_and_not_by_the_name_of_the_table():
    renamed = LabelTable.from_mapping("my scans", {"LV": 7, "RV": 9, "MYO": 11})
    assert known_rules(renamed) == RULES["acdc"]
    assert known_rules(ABC) == ()


def test_a_rule_that_real_cases_break_is_not_kept(facts):
    wrong = Contact("LV", ("RV",), least=0.1)
    assert kept_by(facts, [*RULES["cardiac8"], wrong]) == RULES["cardiac8"]


# Situs


@pytest.mark.parametrize(("axis", "name"), enumerate(["right", "front", "up"]))
def test_a_mirrored_heart_is_caught(hearts, facts, axis, name):
    orders = learn_orders(facts)
    assert [mirrored_axes(found, orders) for found in facts] == [()] * len(facts)
    for heart in hearts[:4]:
        flipped = describe(changed(heart, np.flip(heart.labels, axis)))
        assert mirrored_axes(flipped, orders) == (name,)


def test_orders_are_learnt_where_real_cases_clearly_agree(facts):
    orders = {str(order) for order in learn_orders(facts)}
    assert {"RA lies to the right of LV", "LV lies in front of LA", "PA lies above LV"} <= orders
    assert learn_orders(facts[:7]) == ()
    backwards = [
        replace(
            found,
            structures={
                name: replace(s, centroid_mm=tuple(-c for c in s.centroid_mm)) for name, s in found.structures.items()
            },
        )
        for found in facts
    ]
    assert learn_orders([*facts, *backwards]) == ()


# Measures


def measures(synthetic, real):
    found = compare(synthetic, real, seed=0)
    json.dumps([asdict(measure) for measure in found], allow_nan=False)
    return {(measure.name, measure.structure, measure.view): measure for measure in found}


def test_defects_show_beside_the_floor(hearts, facts):
    bad = [
        describe(changed(heart, np.flip(heart.labels, 0) if i % 2 else leak(relabel("LAA", None)(heart.labels))))
        for i, heart in enumerate(hearts[:4])
    ]
    found = measures(bad, facts)
    mirrored = found["mirrored", None, "left-right"]
    assert (mirrored.value, mirrored.floor) == (0.5, 0.0)
    assert found["mirrored", None, "down-up"].value == 0.0
    leaking = found["rule_broken", "LV lies apart from RV", None]
    assert (leaking.value, leaking.floor) == (0.5, 0.0)
    touching = found["rule_broken", "LAA touches LA", None]
    assert touching.value == 0.0 and "2 synthetic" in touching.note  # an absent appendage cannot touch
    assert found["third_class_rate", "LA", None].floor == 0.0
    assert (found["presence", "LAA", None].value, found["presence", "LAA", None].floor) == (0.5, 1.0)
    assert found["volume_ml", "LAA", None].value < found["volume_ml", "LAA", None].floor
    assert found["rules_not_judged", None, None].value == 0.5
    assert found["order_reversed", None, None].value > 0.1 > found["order_reversed", None, None].floor


def test_volume_distances_have_their_closed_forms(facts):
    larger = [
        replace(found, structures={n: replace(s, volume_ml=s.volume_ml + 1000) for n, s in found.structures.items()})
        for found in facts
    ]
    found = measures(larger, facts)
    ks, emd = found["volume_ks", "LV", None], found["volume_emd_ml", "LV", None]
    assert ks.value == 1.0 and ks.floor < 0.9
    assert emd.value == pytest.approx(1000, abs=60) and emd.unit == "mL"


def test_a_few_or_empty_cases_give_no_number_and_say_why(hearts, facts):
    empty = describe(changed(hearts[0], np.zeros_like(hearts[0].labels)))
    found = measures([empty], facts[:4])
    assert found["third_class_rate", None, None].value is None
    assert found["mirrored", None, None].note.startswith("no order to compare with: the 4 real cases (8 are needed)")
    assert "too few cases" in found["volume_ks", "LV", None].note
    assert found["presence", "LV", None].value == 0.0
    assert measures([], facts)["presence", "LV", None].value is None


# Real label maps


def real_maps(folder, pattern, table, count):
    found = []
    for path in sorted(folder.glob(pattern))[:count]:
        image = nib.load(path)
        spacing = np.array([*image.header.get_zooms()[:3], 1.0])  # ACDC's affines say 1 mm; its headers know better
        labels = np.asarray(image.dataobj).round()
        found.append(describe(case(labels, affine=np.diag(spacing), table=table, name=path.name.split(".")[0])))
    return found


@pytest.mark.parametrize(
    ("folder", "pattern", "table", "count"),
    [("acdc/masks", "*.nii.gz", ACDC, 20), ("msd_hippocampus/labelsTr", "hippo*.nii.gz", HIPPOCAMPUS, 60)],
)
def test_real_label_maps_are_plausible(shared_data, folder, pattern, table, count):
    real = real_maps(shared_data / folder, pattern, table, count)
    assert np.median([found.third_class_rate() for found in real]) < 0.001
    states = [rule.judge(found).state for found in real for rule in known_rules(table)]
    assert states.count("broken") <= 0.05 * len(states)
    orders = learn_orders(real)
    assert orders and sum(bool(mirrored_axes(found, orders)) for found in real) <= 0.05 * len(real)

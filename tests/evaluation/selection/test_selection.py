"""Selection: held-out hearts pass, planted defects are rejected for their reason, a hopeless quest ends in words."""

import json
from dataclasses import asdict, replace

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from voxpair.core.case import Case
from voxpair.core.errors import InputError
from voxpair.core.labels import CARDIAC8, HIPPOCAMPUS, LabelTable
from voxpair.evaluation.selection.selector import (
    RULE_NAMES,
    Match,
    SelectionSettings,
    Selector,
    mean_dice,
)
from voxpair.phantom.heart_cohort import PhantomSettings, heart_cases

ALONE = SelectionSettings(rules=("volume", "topology", "situs", "intensity"))
LEARNT = 24
VALUE = {structure.name: structure.value for structure in CARDIAC8.structures}


@pytest.fixture(scope="module")
def hearts():
    settings = PhantomSettings(grid=(32, 32, 32), contrast={"arterial": 1.0})
    return list(heart_cases(settings, LEARNT + 20, seed=11))


@pytest.fixture(scope="module")
def selector(hearts):
    return Selector.fit(hearts[:LEARNT], ALONE, modality="CT")


@pytest.fixture(scope="module")
def good(hearts, selector):
    """Held-out hearts that are accepted."""
    return [heart for heart in hearts[LEARNT:] if selector.judge(heart).accepted]


def test_real_cases_that_it_has_not_seen_pass(hearts, good):
    assert len(good) >= 0.95 * (len(hearts) - LEARNT)


# Planted defects


def without_appendage(heart):
    return replace(heart, labels=np.where(heart.labels == VALUE["LAA"], 0, heart.labels))


def leak(heart):
    near = ndimage.binary_dilation(heart.labels == VALUE["RV"], iterations=3)
    return replace(heart, labels=np.where(near & (heart.labels == VALUE["MYO"]), VALUE["RV"], heart.labels))


def detached_piece(heart):
    """A solid cube of left ventricle far from the heart, in the lung."""
    labels = heart.labels.copy()
    distance = ndimage.distance_transform_edt(labels == 0)
    distance[[0, 1, 2, -3, -2, -1]] = distance[:, [0, 1, 2, -3, -2, -1]] = distance[:, :, [0, 1, 2, -3, -2, -1]] = 0
    x, y, z = np.unravel_index(distance.argmax(), labels.shape)
    labels[x - 2 : x + 2, y - 2 : y + 2, z - 2 : z + 2] = VALUE["LV"]
    return replace(heart, labels=labels)


def mirrored(heart):
    return replace(heart, labels=np.flip(heart.labels, 0), image=np.flip(heart.image, 0))


def brighter(heart):
    return replace(heart, image=heart.image + 400)


def atria_swapped(heart):
    left, right = heart.labels == VALUE["LA"], heart.labels == VALUE["RA"]
    return replace(heart, labels=np.where(left, VALUE["RA"], np.where(right, VALUE["LA"], heart.labels)))


def four_times_as_large(heart):
    affine = heart.affine.copy()
    affine[:3, :3] *= 4 ** (1 / 3)
    return replace(heart, affine=affine)


def hollow(heart):
    core = ndimage.binary_erosion(heart.labels == VALUE["LV"], iterations=2)
    return replace(heart, labels=np.where(core, 0, heart.labels))


def dotted(heart):
    """Dots of aorta along the border of the right atrium, as a colour code makes them."""
    atrium = heart.labels == VALUE["RA"]
    border = atrium & ~ndimage.binary_erosion(atrium)
    border[1::2], border[:, 1::2] = False, False
    return replace(heart, labels=np.where(border, VALUE["AO"], heart.labels))


@pytest.mark.parametrize(
    ("defect", "rule", "words"),
    [
        (without_appendage, "volume", "LAA is missing; real cases have it"),
        (leak, "topology", "of its surface on RV; at most 1.0% is expected"),
        (detached_piece, "topology", "of its volume in stray pieces; at most"),
        (mirrored, "situs", "mirrored from left to right"),
        (brighter, "intensity", "MYO has a median of"),
        (atria_swapped, "topology", "has 0.0% of its surface on"),
        (four_times_as_large, "volume", "the whole anatomy has"),
        (hollow, "topology", "of background; at most"),
        (dotted, "topology", "of the boundary as a third class; at most"),
    ],
)
def test_a_planted_defect_is_rejected_for_its_reason(good, selector, defect, rule, words):
    judged = [selector.judge(defect(heart)) for heart in good[:6]]
    for judgement in judged:
        assert not judgement.accepted
        assert any(words in reason for reason, cause in zip(judgement.reasons, judgement.rules) if cause == rule)
    if rule in ("intensity", "situs"):
        assert {cause for judgement in judged for cause in judgement.rules} == {rule}


def test_a_reason_names_structure_value_and_range(good, hearts, selector):
    heart = good[0]
    keep = np.argwhere(heart.labels == VALUE["LAA"])[:1]
    labels = np.where(heart.labels == VALUE["LAA"], VALUE["LA"], heart.labels)
    labels[tuple(keep.T)] = VALUE["LAA"]
    judgement = selector.judge(replace(heart, labels=labels))
    (reason,) = [text for text in judgement.reasons if "LAA has" in text and "mL" in text]
    voxel_ml = np.prod(heart.spacing_mm) / 1000
    real = [other.attributes["volume_LAA_ml"] for other in hearts[:LEARNT]]
    assert reason.startswith(f"LAA has {voxel_ml:.1f} mL; accepted is ")
    assert reason.endswith(f"(real cases have {min(real):.1f} mL to {max(real):.1f} mL)")


def test_only_the_rules_asked_for_are_applied(hearts, good):
    selector = Selector.fit(hearts[:LEARNT], SelectionSettings(rules=("situs",)), modality="CT")
    assert selector.judge(brighter(without_appendage(good[0]))).accepted
    assert selector.judge(mirrored(good[0])).rules == ("situs",)


def test_an_empty_case_is_rejected_and_not_a_nan(good, selector):
    judgement = selector.judge(replace(good[0], labels=np.zeros_like(good[0].labels)))
    assert judgement.reasons == tuple(f"{name} is missing; real cases have it" for name in CARDIAC8.names)
    json.dumps(asdict(judgement), allow_nan=False)


def test_a_structure_that_fills_the_image_is_rejected_too(good, selector):
    judgement = selector.judge(replace(good[0], labels=np.full_like(good[0].labels, VALUE["LV"])))
    assert any(reason.startswith("LV has") and "mL; accepted is" in reason for reason in judgement.reasons)
    json.dumps(asdict(judgement), allow_nan=False)


def test_a_rule_that_real_cases_break_is_left_out_and_named(hearts):
    def turned(old, new):
        return [replace(heart, labels=np.where(heart.labels == VALUE[old], new, heart.labels)) for heart in hearts[:8]]

    assert Selector.fit(turned("MYO", 0), ALONE, modality="CT").left_out == ("LV is enclosed by MYO, LA, AO",)
    selector = Selector.fit(turned("LV", VALUE["RV"]), ALONE, modality="CT")
    assert selector.never == ("LV",)
    assert "LV is there; no real case has it" in selector.judge(hearts[9]).reasons


def test_labels_of_another_table_learn_their_own_contacts(hearts, good):
    table = LabelTable.from_mapping("mine", {f"part {value}": value for value in CARDIAC8.values})
    own = [replace(heart, label_table=table) for heart in hearts[:LEARNT]]
    selector = Selector.fit(own, ALONE, modality="CT")
    heart = good[1]  # whose appendage the field does not cut
    assert selector.judge(replace(heart, label_table=table)).accepted
    labels = np.where(heart.labels == VALUE["LAA"], 0, heart.labels)
    labels[2:5, -6:-3, 2:5] = VALUE["LAA"]
    reasons = selector.judge(replace(heart, labels=labels, label_table=table)).reasons
    assert any("part 8; at least" in reason for reason in reasons)


# Agreement and copies


def test_agreement_and_copies(hearts, good):
    settings = SelectionSettings(rules=("agreement", "copy"), agreement_margin=0.1)
    selector = Selector.fit(hearts[:LEARNT], settings, modality="CT", agreement_real=[0.9] * 10)
    same = Match("heart_0003", score=0.6, threshold=0.9)
    heart = good[0]
    assert selector.judge(heart, heart.labels, same).accepted
    poor = selector.judge(heart, np.roll(heart.labels, 4, axis=0), same)
    dice = mean_dice(np.roll(heart.labels, 4, axis=0), heart.labels)
    assert poor.rules == ("agreement",)
    assert poor.reasons[0].endswith(f"mean Dice of {dice:.2f}; at least 0.80 is accepted")
    assert poor.numbers["agreement"] == dice
    copied = selector.judge(heart, heart.labels, Match("heart_0003", score=0.97, threshold=0.9))
    assert copied.reasons == ("it is like the training case heart_0003 by 0.97; at most 0.90 is accepted",)
    with pytest.raises(InputError, match=r"needs predicted labels of shape .* got none"):
        selector.judge(heart, copy=same)
    with pytest.raises(InputError, match=r"got shape \(2, 2, 2\)"):
        selector.judge(heart, np.zeros((2, 2, 2)), same)
    with pytest.raises(InputError, match="rule 'copy' needs its match"):
        selector.judge(heart, heart.labels)


def test_what_cannot_be_learnt_from_is_refused(hearts):
    with pytest.raises(InputError, match="at least 8 annotated real cases, got 7"):
        Selector.fit(hearts[:7], ALONE, modality="CT")
    with pytest.raises(InputError, match="needs the segmenter's mean Dice on held-out real cases"):
        Selector.fit(hearts[:8], SelectionSettings(), modality="CT")
    letters = {letter: value for value, letter in enumerate("abcdefgh", 1)}
    other = replace(hearts[0], label_table=LabelTable.from_mapping("other", letters))
    with pytest.raises(InputError, match="selection compares cases of one label table"):
        Selector.fit([*hearts[:8], other], ALONE, modality="CT")
    with pytest.raises(InputError, match="selection compares cases of one label table"):
        Selector.fit(hearts[:8], ALONE, modality="CT").judge(other)


def test_mean_dice_counts_what_either_map_has():
    one, other = np.array([1, 1, 2, 0]), np.array([1, 1, 0, 3])
    assert mean_dice(one, other) == pytest.approx(1 / 3)
    assert mean_dice(np.zeros(4), np.zeros(4)) == 1.0


# Magnetic resonance: no scale of its own


def scans(folder, count):
    for path in sorted((folder / "imagesTr").glob("hippo*.nii.gz"))[:count]:
        image, labels = nib.load(path), nib.load(folder / "labelsTr" / path.name)
        yield Case(
            path.name.split(".")[0],
            np.asarray(image.dataobj, np.float32),
            np.asarray(labels.dataobj).round().astype(np.uint8),
            image.affine,
            HIPPOCAMPUS,
            path.name,
        )


def test_real_brains_pass_whatever_the_scale_of_their_grey_values(shared_data):
    cases = list(scans(shared_data / "msd_hippocampus", 70))
    selector = Selector.fit(cases[:40], ALONE, modality="MRI")
    judged = [selector.judge(case) for case in cases[40:]]
    assert sum(judgement.accepted for judgement in judged) >= 0.95 * len(judged)
    case = next(case for case, judgement in zip(cases[40:], judged) if judgement.accepted)
    scaled = selector.judge(replace(case, image=1000 * case.image + 77))
    assert scaled.accepted
    inverted = selector.judge(replace(case, image=-case.image))
    assert set(inverted.rules) == {"intensity"}
    flat = selector.judge(replace(case, image=np.full_like(case.image, 3.0)))
    assert flat.reasons == ("the image is of one grey nearly everywhere, so no structure can be seen",)


def test_every_rule_has_a_name_that_settings_know():
    assert SelectionSettings().rules == RULE_NAMES
    with pytest.raises(ValueError, match="rules"):
        SelectionSettings(rules=("beauty",))

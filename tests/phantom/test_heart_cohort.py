"""Whole phantoms: determinism, sizes, topology, situs, brightness, and refusals."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.ndimage import binary_dilation, binary_erosion, generate_binary_structure, label

from voxpair.cohorts import layouts, volumes
from voxpair.cohorts.cohort import Cohort
from voxpair.core.errors import InputError
from voxpair.core.labels import CARDIAC8, THORAX7
from voxpair.core.settings import override
from voxpair.phantom import HeartParameters, PhantomSettings, draw_parameters, heart_case, heart_cases, render
from voxpair.phantom.annotation import AnnotationSettings
from voxpair.phantom.contrast import draw_levels
from voxpair.phantom.heart import inflation
from voxpair.stages import Session, make_phantoms

SMALL = PhantomSettings(grid=(24, 24, 24))
WHOLE = PhantomSettings(grid=(48, 48, 60), field_of_view_mm=(192, 192, 240), noise_hu=0)
"""Nothing of the heart is cut off."""


@cache
def whole_heart(index):
    return heart_case(WHOLE, 5, index)


def structure(case, name):
    return case.labels == CARDIAC8.value_of(name)


def touches(case, first, second):
    """Number of voxels of ``second`` that share a face with ``first``."""
    return int((binary_dilation(structure(case, first)) & structure(case, second)).sum())


def centre_mm(case, name):
    voxels = np.argwhere(structure(case, name)).mean(axis=0)
    return voxels @ case.affine[:3, :3].T + case.affine[:3, 3]


def test_a_case_depends_on_settings_seed_and_index_alone():
    again, straight = heart_case(SMALL, 3, 2), list(heart_cases(SMALL, 3, 3))[2]
    np.testing.assert_array_equal(again.image, straight.image)
    np.testing.assert_array_equal(again.labels, straight.labels)
    assert again.attributes == straight.attributes and again.name == "heart_0002"
    assert not np.array_equal(again.image, heart_case(SMALL, 4, 2).image)


def test_a_stream_can_start_anywhere_and_uses_processes_in_order():
    tail = list(heart_cases(SMALL, 4, 1, first=2))
    assert [case.name for case in tail] == ["heart_0002", "heart_0003"]
    for one, other in zip(tail, heart_cases(SMALL, 4, 1, first=2, workers=2), strict=True):
        np.testing.assert_array_equal(one.image, other.image)


def test_a_patient_does_not_depend_on_the_grid():
    assert draw_parameters(0, 1, SMALL) == draw_parameters(0, 1, WHOLE)


def test_a_case_says_what_it_is():
    case = whole_heart(0)
    assert case.source == "phantom" and case.label_table is CARDIAC8
    assert (case.name, case.patient) == ("heart_0000", "heart_0000_of_seed_5")
    assert set(case.provenance["parameters"]) == set(HeartParameters().to_dict())
    assert case.attributes["metal"] in ("yes", "no") and case.attributes["sex"] in ("F", "M")
    voxel_ml = np.prod(case.spacing_mm) / 1000
    assert case.attributes["volume_RV_ml"] == pytest.approx(structure(case, "RV").sum() * voxel_ml, abs=0.01)


def test_labelled_volumes_are_those_asked_for():
    names = ("LV", "MYO", "RV", "LA", "RA", "LAA")
    ratios = np.array(
        [
            [case.attributes[f"volume_{name}_ml"] / case.provenance["volumes_ml"][name] for name in names]
            for case in map(whole_heart, range(8))
        ]
    )
    np.testing.assert_allclose(ratios[:, :5], 1, atol=0.06)
    np.testing.assert_allclose(ratios[:, 5].mean(), 1, atol=0.15)  # a few dozen voxels each


def test_mean_volumes_are_those_of_adults():
    drawn = [draw_parameters(0, index, SMALL) for index in range(300)]
    assert np.mean([p.lv_volume_ml for p in drawn]) == pytest.approx((112.9 + 98.2) / 2, abs=5)
    assert np.mean([p.myo_volume_ml for p in drawn]) == pytest.approx((138 + 103) / 2, abs=6)
    assert np.mean([p.laa_volume_ml for p in drawn]) == pytest.approx(5.2, abs=0.6)


@pytest.mark.parametrize("index", range(6))
def test_topology(index):
    case = whole_heart(index)
    assert set(np.unique(case.labels)) == set(range(9))
    assert touches(case, "LV", "RV") == 0
    for first, second in (("MYO", "LV"), ("MYO", "RV"), ("LA", "LAA"), ("LA", "LV"), ("AO", "LV"), ("PA", "RV")):
        assert touches(case, first, second) >= 2, (first, second)
    assert touches(case, "RA", "RV") >= 2
    for name in ("LV", "RV", "LA", "RA", "MYO", "AO", "PA"):
        parts, count = label(structure(case, name), generate_binary_structure(3, 3))
        largest = np.sort(np.bincount(parts.ravel())[1:])[::-1]
        limbs = 2 if name == "AO" else 1  # a field that ends below the arch shows it twice
        assert largest[:limbs].sum() > 0.97 * structure(case, name).sum(), (name, count)


@pytest.mark.parametrize("index", range(6))
def test_situs_in_right_front_head_millimetres(index):
    at = {name: centre_mm(whole_heart(index), name) for name in CARDIAC8.names}
    right, front, head = 0, 1, 2
    assert at["LV"][right] < at["RA"][right] - 40
    assert at["RV"][front] > at["LV"][front] + 8
    assert at["LA"][front] < at["RV"][front] - 35
    affine = whole_heart(index).affine
    aorta = np.argwhere(structure(whole_heart(index), "AO")) @ affine[:3, :3].T + affine[:3, 3]
    ahead = aorta[:, front] > at["LA"][front]
    ascending, descending = aorta[ahead].mean(axis=0), aorta[~ahead].mean(axis=0)
    assert at["PA"][right] < ascending[right] and descending[right] < ascending[right] - 10
    assert descending[front] < at["LA"][front] - 20
    assert min(ascending[head], at["PA"][head]) > max(at["LV"][head], at["RV"][head], at["RA"][head])
    assert at["LAA"][right] < at["LA"][right]
    lv = np.argwhere(structure(whole_heart(index), "LV")) @ whole_heart(index).affine[:3, :3].T
    apex = lv[np.argmin(lv @ [1, -0.9, 1])] - lv.mean(axis=0)
    assert apex[right] < 0 and apex[front] > 0 and apex[head] < 0


@pytest.mark.parametrize("state", ["arterial", "mixed", "late_venous", "non_contrast"])
def test_medians_inside_the_chambers_are_the_levels_of_the_state(state):
    levels = draw_levels(state, np.random.default_rng(4))
    patient = replace(HeartParameters(), contrast=state, levels_hu=levels)
    image, labels, _ = render(patient, WHOLE)
    for name, tolerance in (("LV", 5), ("LA", 5), ("AO", 5), ("PA", 5), ("RV", 25), ("MYO", 12)):
        core = binary_erosion(labels == CARDIAC8.value_of(name), iterations=1)
        assert np.median(image[core]) == pytest.approx(levels[name], abs=tolerance), name


def test_noise_is_what_was_asked_for_in_the_middle_of_the_image():
    patient = HeartParameters()
    quiet = render(patient, WHOLE)[0]
    noisy = render(patient, override(WHOLE, ["noise_hu=30"]))[0]
    middle = np.s_[12:36, 12:36]
    assert (noisy - quiet)[middle].std() == pytest.approx(30, rel=0.1)


def test_metal_saturates_and_leaves_the_labels_alone():
    plain = render(HeartParameters(), WHOLE)
    for metal in ("lead", "wires"):
        image, labels, _ = render(replace(HeartParameters(), metal=metal), WHOLE)
        assert image.max() > plain[0].max() + 100
        np.testing.assert_array_equal(labels, plain[1])


def test_a_scan_up_to_the_arch_reaches_higher_and_sees_more_aorta():
    cardiac = render(HeartParameters(), SMALL)
    arch = render(replace(HeartParameters(), scan_range="up_to_arch"), SMALL)

    def top(affine):
        return affine[2, 3] + affine[2, 2] * SMALL.grid[2]

    def aorta_ml(result):
        return (result[1] == CARDIAC8.value_of("AO")).sum() * np.linalg.det(result[2][:3, :3]) / 1000

    assert top(arch[2]) > top(cardiac[2]) + 35
    assert aorta_ml(arch) > 1.2 * aorta_ml(cardiac)


def test_the_label_of_the_aorta_is_a_convention_and_the_image_knows_nothing_of_it():
    whole, ascending = (
        heart_case(override(SMALL, ["labels=clean", f"aorta={name}"]), 2, 5) for name in ("whole", "ascending")
    )
    assert (np.abs(whole.image - ascending.image) > 10).mean() < 1e-3
    both, one = structure(whole, "AO"), structure(ascending, "AO")
    assert one.sum() < 0.75 * both.sum() and not (one & ~both).any()
    np.testing.assert_array_equal(whole.labels[~both], ascending.labels[~both])
    assert (ascending.labels[both & ~one] == 0).all()
    assert whole.provenance["parameters"]["aorta_label"] == "whole"


def test_a_field_on_the_chest_holds_both_lungs():
    settings = override(
        PhantomSettings(), ["grid=[34, 30, 24]", "field_of_view_mm=[340, 300, 240]", "centre=chest", "labels=thorax"]
    )
    case = heart_case(settings, 1, 0)
    right, left = (case.labels == THORAX7.value_of(f"{side}_lung") for side in ("right", "left"))
    for lung in (right, left):
        assert not lung[[0, -1]].any() and not lung[:, [0, -1]].any() and lung.sum() > 500
    assert set(np.unique(case.labels)) == {0, *THORAX7.values}


def test_chambers_that_cannot_fit_are_refused_by_name():
    with pytest.raises(InputError, match="laa_volume_ml"):
        inflation(replace(HeartParameters(), laa_volume_ml=40.0, laa_length_mm=8.0, laa_orifice_mm=8.0))


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("field_of_view_mm=[190, 0, 150]", "field_of_view_mm"),
        ("grid=[4, 64, 64]", "at least 8 voxels"),
        ("spacing_mm=[2, 0, 2]", "spacing_mm"),
        ("spacing_mm=0", "spacing_mm"),
        ("noise_hu=-1", "noise_hu"),
        ("noise_hu=.inf", "noise_hu"),
        ("dose=.inf", "dose"),
        ("arch_extra_mm=.inf", "arch_extra_mm"),
        ("field_of_view_mm=[.inf, 190, 150]", "field_of_view_mm"),
        ("contrast={arterial: .nan}", "contrast"),
        ("annotation.boundary_mm=.nan", "annotation.boundary_mm"),
        ("kernel=bone", "kernel"),
        ("contrast={venous: 1}", "unknown contrast state 'venous'"),
        ("women=1.5", "women"),
        ("dose=-1", "dose"),
        ("dose=0", "dose"),
        ("tube_voltage_kv=90", "tube_voltage_kv"),
        ("mode=exact", "mode"),
        ("modality=pet", "modality"),
        ("motion=2", "motion"),
        ("stepped=-0.1", "stepped"),
        ("lead=0.95", "lead, wires, valve and stent must not add up to more than 1"),
    ],
)
def test_impossible_settings_are_refused_with_the_reason(assignment, words):
    with pytest.raises(InputError, match=words):
        override(PhantomSettings(), [assignment])


def test_a_spacing_takes_the_place_of_the_field_of_view():
    settings = override(PhantomSettings(), ["grid=[40, 44, 32]", "spacing_mm=[4.5, 4, 5]"])
    image, labels, affine = render(HeartParameters(), settings)
    assert image.shape == labels.shape == (40, 44, 32)
    np.testing.assert_allclose(np.diag(affine), [4.5, 4, 5, 1])
    as_field = override(PhantomSettings(), ["grid=[40, 44, 32]", "field_of_view_mm=[180, 176, 160]"])
    np.testing.assert_array_equal(image, render(HeartParameters(), as_field)[0])
    arch = render(HeartParameters(scan_range="up_to_arch"), settings)
    assert arch[0].shape == (40, 44, 40)  # 40 mm more, at 5 mm each
    np.testing.assert_allclose(arch[2], affine)
    with pytest.raises(InputError, match="field_of_view_mm or spacing_mm, not both"):
        override(as_field, ["spacing_mm=[4.5, 4, 5]"])
    assert override(as_field, ["spacing_mm=[4.5, 4, 5]", "field_of_view_mm=null"]).spacing_mm == (4.5, 4, 5)
    with pytest.raises(InputError, match="give field_of_view_mm or spacing_mm"):
        override(as_field, ["field_of_view_mm=null"])


def test_a_case_says_how_it_was_scanned():
    settings = override(SMALL, ["motion=1", "stepped=1", "valve=1", "lead=0", "wires=0", "stent=0", "dose=0.5"])
    case = heart_case(override(settings, ["tube_voltage_kv=100", "kernel=sharp"]), 1, 0)
    said = {name: case.attributes[name] for name in ("metal", "metal_kind", "motion", "steps", "dose", "kernel")}
    assert said == {
        "metal": "yes", "metal_kind": "valve", "motion": "yes", "steps": "yes", "dose": 0.5, "kernel": "sharp"
    }  # fmt: skip
    assert case.attributes["tube_voltage_kv"] == 100 and 75 <= case.attributes["heart_rate_bpm"] <= 95
    assert case.provenance["scan"]["window_ms"] > 0 and case.provenance["scan"]["steps"]


def test_a_second_modality_shows_the_same_patients_with_the_same_labels():
    ct, mr = (heart_case(override(SMALL, [f"modality={name}"]), 2, 3) for name in ("ct", "mr"))
    np.testing.assert_array_equal(ct.labels, mr.labels)
    assert mr.image.min() >= 0 and mr.attributes["modality"] == "mr" and "dose" not in mr.attributes


def test_the_physical_mode_depends_on_seed_and_index_alone_too():
    settings = override(SMALL, ["mode=physical", "motion=1"])
    one, other = (heart_case(settings, 3, 1) for _ in range(2))
    np.testing.assert_array_equal(one.image, other.image)
    np.testing.assert_array_equal(one.labels, heart_case(override(settings, ["mode=fast"]), 3, 1).labels)


@pytest.mark.parametrize("kind", ["clean", "thorax"])
def test_all_kinds_of_labels_come_with_the_same_image(kind):
    expert, other = (heart_case(override(SMALL, [f"labels={name}"]), 2, 5) for name in ("expert", kind))
    np.testing.assert_array_equal(expert.image, other.image)
    assert not np.array_equal(expert.labels, other.labels)


def test_an_unknown_setting_is_refused():
    with pytest.raises(ValidationError, match="spacing"):
        PhantomSettings(spacing=1)


def test_a_stream_that_makes_no_sense_is_refused():
    with pytest.raises(InputError, match="workers"):
        next(heart_cases(SMALL, 1, 0, workers=0))


@pytest.mark.parametrize(("labels", "modality", "expected"), [("thorax", "ct", "CT"), ("expert", "mr", "MRI")])
def test_a_cohort_of_any_kind_is_written(tmp_path, labels, modality, expected):
    settings = PhantomSettings(grid=(16, 16, 16), labels=labels, modality=modality)
    cohort = make_phantoms(tmp_path / "cohort", 1, settings, Session())
    (case,) = cohort
    assert cohort.modality == expected and set(np.unique(case.labels)) <= {0, *cohort.label_table.values}
    assert cohort.label_table.names == (THORAX7 if labels == "thorax" else CARDIAC8).names


def other_labels(folder, name, case):
    labels, affine, _ = volumes.read_labels(folder / name / f"{case.name}.nii.gz")
    np.testing.assert_allclose(affine, case.affine, atol=1e-5)
    return labels


def cores(labels, iterations):
    """Where a voxel and all around it have one label."""
    return np.logical_or.reduce([binary_erosion(labels == v, iterations=iterations) for v in np.unique(labels)])


def test_a_cohort_keeps_what_the_reader_drew_and_the_truth_which_differ_on_surfaces_only(tmp_path):
    settings = PhantomSettings(grid=(64, 64, 52), annotation=AnnotationSettings(pulmonary_mm=0))  # PA ends as it does
    cohort = make_phantoms(tmp_path / "cohort", 2, settings, Session())
    assert cohort.manifest["other_labels"] == ["labelsClean"] and not (cohort.folder / "labelsExpert").exists()
    for index, case in enumerate(cohort):
        clean = other_labels(cohort.folder, "labelsClean", case)
        np.testing.assert_array_equal(clean, heart_case(override(settings, ["labels=clean"]), 0, index).labels)
        CARDIAC8.check(clean, case.name)
        differs = clean != case.labels
        assert 0.02 < differs.sum() / (clean > 0).sum() < 0.25
        deep, lv, rv = cores(clean, 2), CARDIAC8.value_of("LV"), CARDIAC8.value_of("RV")
        assert deep.sum() > 0.5 * clean.size and differs[~deep].mean() > 0.01
        muscle = (case.labels == lv) & (clean == CARDIAC8.value_of("MYO")) | (case.labels == rv) & (clean == 0)
        assert not (differs & deep & ~muscle).any()  # muscles inside the ventricles are nothing a reader outlines


@pytest.mark.parametrize(
    ("labels", "others"), [("clean", ["labelsExpert"]), ("thorax", ["labelsExpert", "labelsClean"])]
)
def test_whatever_is_asked_for_the_other_maps_lie_beside_it(tmp_path, labels, others):
    settings = PhantomSettings(grid=(16, 16, 16), labels=labels)
    cohort = make_phantoms(tmp_path / "cohort", 1, settings, Session())
    assert cohort.manifest["other_labels"] == others
    for name in others:
        wanted = heart_case(override(settings, [f"labels={name.removeprefix('labels').lower()}"]), 0, 0).labels
        np.testing.assert_array_equal(other_labels(cohort.folder, name, cohort.read("heart_0000")), wanted)


def test_a_cohort_with_both_maps_is_a_plain_nnunet_dataset(tmp_path):
    cohort = make_phantoms(tmp_path / "cohort", 1, PhantomSettings(grid=(16, 16, 16)), Session())
    (scan,) = layouts.list_scans(cohort.folder, "auto", None, None).scans
    assert scan.labels == cohort.folder / "labelsTr/heart_0000.nii.gz"
    for name in ("cases.csv", "manifest.json"):
        (cohort.folder / name).unlink()
    assert Cohort.open(cohort.folder).names == ("heart_0000",)


def test_an_interrupted_cohort_goes_on_to_the_same_maps(tmp_path, monkeypatch):
    settings = PhantomSettings(grid=(16, 16, 16))
    straight = make_phantoms(tmp_path / "straight", 3, settings, Session(), workers=2)
    write = volumes.write_labels

    def killed(path, *given):
        if path.name == "heart_0001.nii.gz" and path.parent.name == "labelsTr":
            path.with_name(f".123-{path.name}").write_bytes(b"half")
            path.parent.with_name("labelsClean").joinpath(f".123-{path.name}").write_bytes(b"half")
            raise KeyboardInterrupt
        write(path, *given)

    with monkeypatch.context() as patch:
        patch.setattr(volumes, "write_labels", killed)
        with pytest.raises(KeyboardInterrupt):
            make_phantoms(tmp_path / "resumed", 3, settings, Session())
    resumed = make_phantoms(tmp_path / "resumed", 3, settings, Session())
    names = sorted(str(path.relative_to(straight.folder)) for path in straight.folder.rglob("*"))
    assert names == sorted(str(path.relative_to(resumed.folder)) for path in resumed.folder.rglob("*"))
    for case in resumed:
        one, other = (other_labels(cohort.folder, "labelsClean", case) for cohort in (straight, resumed))
        np.testing.assert_array_equal(one, other)

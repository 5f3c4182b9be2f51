"""Fidelity of cohorts whose faults are known: each number moves the right way against its floor, and only then."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from voxpair.core.case import Case
from voxpair.core.errors import InputError, RunError
from voxpair.core.labels import HIPPOCAMPUS
from voxpair.evaluation.pairs.fidelity import VIEWS, compare, describe

REAL, MADE, SIDE = 100, 50, 16


class Filters:
    """Sixteen fixed random 3D filters; mean and SD over slices of what they find. Stands in for a real network."""

    name, digest = "random filters", "0" * 64

    def __init__(self):
        self._weights = torch.randn(16, 1, 3, 3, 3, generator=torch.Generator().manual_seed(0))
        self._weights[:12] -= self._weights[:12].mean(
            dim=(1, 2, 3, 4), keepdim=True
        )  # edges and texture, not brightness

    def features(self, case):
        found = torch.conv3d(torch.from_numpy(case.image)[None, None] / 100, self._weights).relu()[0]
        means = {view: found.movedim(axis + 1, 1).mean((2, 3)) for view, axis in zip(VIEWS, (2, 1, 0))}
        return {view: torch.cat([m.mean(1), m.std(1)]).numpy() for view, m in means.items()}


def scan(seed, kind):
    """One of two kinds of patient: a bright or a dark ball of varying size and place in a noisy background."""
    random = np.random.default_rng(seed)
    axes = np.indices((SIDE,) * 3)
    centre, radius = random.uniform(6.5, 8.5, 3), random.uniform(3, 5)
    inside = sum((a - c) ** 2 for a, c in zip(axes, centre)) < radius**2
    image = (100 + (60 if kind else -60) * inside + random.normal(0, 5, inside.shape)).astype(np.float32)
    return Case(f"case{seed}", image, None, np.eye(4), HIPPOCAMPUS, patient=f"case{seed}")


def changed(case, image):
    return replace(case, image=image.astype(np.float32))


def noisier(case, sd):
    return changed(case, case.image + np.random.default_rng(7).normal(0, sd, case.image.shape))


def blurred(case, sigma):
    return changed(case, ndimage.gaussian_filter(case.image, sigma))


FRESH = [scan(1000 + i, i % 2) for i in range(MADE)]
FAULTY = {
    "none": FRESH,
    "blur": [blurred(case, 0.45) for case in FRESH],
    "more blur": [blurred(case, 0.6) for case in FRESH],
    "noise": [noisier(case, 4.5) for case in FRESH],
    "more noise": [noisier(case, 6) for case in FRESH],
    "half the modes": [scan(2000 + i, 0) for i in range(MADE)],
    "duplicates": [FRESH[i % 4] for i in range(MADE)],
}


@pytest.fixture(scope="module")
def facts():
    extractor = Filters()
    real = [describe(scan(i, i % 2), extractor) for i in range(REAL)]
    return real, {fault: [describe(case, extractor) for case in cases] for fault, cases in FAULTY.items()}


@pytest.fixture(scope="module")
def found(facts):
    real, made = facts
    return {fault: {(m.name, m.view): m for m in compare(cases, real, seed=0)} for fault, cases in made.items()}


def worse(measure):
    """The whole interval lies on the bad side of the floor."""
    return measure.low > measure.floor_high if measure.better == "lower" else measure.high < measure.floor_low


def test_each_measure_is_there_once_and_complete(found):
    expected = {(name, view) for name in ("frechet", "kid") for view in (None, *VIEWS)}
    expected |= {(name, None) for name in ("precision", "recall", "density", "coverage")}
    assert set(found["none"]) == expected
    for measure in found["none"].values():
        assert measure.group == "fidelity" and measure.synthetic_cases == measure.real_cases == MADE
        assert measure.low <= measure.value <= measure.high and measure.floor_low <= measure.floor <= measure.floor_high
        assert "random filters" in measure.note


def test_fresh_cases_of_the_same_kind_are_as_near_as_real_ones(found):
    for measure in found["none"].values():
        assert not worse(measure), measure
        spread = measure.floor_high - measure.floor_low
        assert abs(measure.value - measure.floor) <= spread, measure


@pytest.mark.parametrize("fault", ["blur", "noise"])
def test_images_of_another_quality_are_far_and_unlike_any_real_one(found, fault):
    assert all(worse(found[fault][name, view]) for name in ("frechet", "kid") for view in (None, *VIEWS))
    assert worse(found[fault]["precision", None]) and worse(found[fault]["density", None])
    for name in ("frechet", "kid"):
        assert found[f"more {fault}"][name, None].low > found[fault][name, None].high


def test_a_dropped_mode_costs_recall_and_coverage_but_not_precision(found):
    dropped = found["half the modes"]
    assert worse(dropped["recall", None]) and worse(dropped["coverage", None])
    assert worse(dropped["frechet", None]) and dropped["kid", None].value > dropped["kid", None].floor_high
    assert not worse(dropped["precision", None])
    assert dropped["coverage", None].value < 0.6  # the lost half of the patients


def test_duplicates_cost_recall_and_coverage_but_not_precision(found):
    copies = found["duplicates"]
    assert worse(copies["recall", None]) and worse(copies["coverage", None])
    assert not worse(copies["precision", None])


def test_same_seed_same_numbers_and_the_mean_over_views_is_the_mean(facts, found):
    real, made = facts
    again = {(m.name, m.view): m for m in compare(made["more blur"], real, seed=0)}
    assert again == found["more blur"]
    for name in ("frechet", "kid"):
        by_view = np.mean([again[name, view].value for view in VIEWS])
        assert again[name, None].value == pytest.approx(by_view, rel=0.1)  # of the same cases, drawn otherwise


def test_small_samples_are_said_to_be_small(facts, found):
    assert "a side" not in found["none"]["frechet", None].note
    assert found["none"]["recall", None].note.startswith("k = 5; ")
    real, made = facts
    few = {(m.name, m.view): m for m in compare(made["none"][:5], real[:12])}
    assert few["frechet", None].value is not None and "5 cases a side" in few["frechet", None].note
    assert "a side" not in few["kid", None].note
    assert few["recall", None].note.startswith("k = 1; ")


def test_the_scale_of_a_feature_changes_nothing_and_a_dead_one_does_no_harm(facts, found):
    real, made = facts

    def other_units(case):
        views = {view: np.append(1e4 * vector + 7, 3.0) for view, vector in case.views.items()}
        return replace(case, views=views)

    for measure in compare([other_units(c) for c in made["noise"]], [other_units(c) for c in real]):
        if measure.name in ("precision", "recall", "coverage"):
            assert measure.value == pytest.approx(found["noise"][measure.name, measure.view].value, abs=0.02)
        if measure.name == "frechet":
            assert measure.value == pytest.approx(found["noise"]["frechet", measure.view].value, rel=0.1)


def test_real_cases_that_are_all_one_case_give_finite_numbers(facts):
    real, made = facts
    for measure in compare(made["none"], [real[0]] * 100):
        assert measure.value is not None and np.isfinite(measure.value), measure


@pytest.mark.parametrize(("synthetic", "real"), [(0, 0), (1, 12), (3, 12), (12, 7)])
def test_too_few_cases_give_no_number_and_say_why(facts, synthetic, real):
    there, made = facts
    for measure in compare(made["none"][:synthetic], there[:real]):
        assert measure.value is None and measure.floor is None
        assert f"too few cases: {synthetic} synthetic and {real} real" in measure.note


def test_features_of_two_extractors_are_never_mixed(facts):
    real, made = facts
    other = [replace(case, extractor="another", digest="1" * 64) for case in made["none"]]
    with pytest.raises(InputError, match="different extractors cannot be compared: another, random filters"):
        compare(other, real)


@pytest.mark.parametrize(
    ("broken", "what"),
    [(None, "nothing"), (np.zeros((2, 2)), r"shape \(2, 2\)"), (np.array([1, np.nan]), "not finite")],
)
def test_an_extractor_that_breaks_its_contract_is_caught_with_the_case(broken, what):
    class Broken(Filters):
        def features(self, case):
            return super().features(case) | {"coronal": broken}

    with pytest.raises(RunError, match=f"case3.*random filters gave .*{what}.*'coronal'"):
        describe(scan(3, 0), Broken())

"""Splits: by patient, frozen, and no leakage."""

import numpy as np
import pytest

from voxpair.cohorts.cohort import Cohort, CohortWriter
from voxpair.cohorts.splits import check_no_overlap, split, training_patients
from voxpair.core.case import Case
from voxpair.core.errors import InputError
from voxpair.core.labels import ACDC

IMAGE = np.ones((2, 2, 2), np.float32)


def make_cohort(folder, patients=10, scans=2, *, prefix="p", unlabelled=(), source="real", manifest=None):
    writer = CohortWriter(folder, ACDC, "CT")
    for i in range(patients):
        for k in range(scans):
            labels = None if i in unlabelled else np.zeros((2, 2, 2), np.uint8)
            writer.add(Case(f"c{i}_{k}", IMAGE * i, labels, np.eye(4), ACDC, f"{prefix}{i}", source))
    return writer.finish(manifest)


def patients_of(folder):
    cohort = Cohort.open(folder)
    return {name: set(cohort.split(name).patients) for name in cohort.split_counts}


@pytest.mark.parametrize("seed", range(5))
def test_no_patient_is_in_two_splits_and_numbers_hold(tmp_path, seed):
    cohort = make_cohort(tmp_path, patients=10, scans=3)
    counts = split(cohort, 5, 2, 1, seed=seed)
    parts = patients_of(tmp_path)
    assert {name: len(patients) for name, patients in parts.items()} == {"train": 5, "val": 2, "test": 1, "unused": 2}
    assert sum(map(len, parts.values())) == len(set().union(*parts.values())) == 10
    assert counts == {"train": 15, "val": 6, "test": 3, "unused": 6}


def test_a_split_depends_on_names_and_seed_alone(tmp_path):
    split(make_cohort(tmp_path / "a"), 6, 4, seed=1)
    make_cohort(tmp_path / "b")
    lines = (tmp_path / "b" / "cases.csv").read_text().splitlines()
    (tmp_path / "b" / "cases.csv").write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")  # another order
    split(Cohort.open(tmp_path / "b"), 6, 4, seed=1)
    split(make_cohort(tmp_path / "c"), 6, 4, seed=2)
    assert patients_of(tmp_path / "a") == patients_of(tmp_path / "b") != patients_of(tmp_path / "c")


def test_a_split_is_frozen(tmp_path):
    cohort = make_cohort(tmp_path)
    split(cohort, 6, 4)
    before = (tmp_path / "cases.csv").read_bytes()
    split(cohort, 6, 4)  # the same again is no change
    with pytest.raises(InputError, match=r"has another split already .* pass --overwrite to split anew"):
        split(cohort, 4, 6)
    assert (tmp_path / "cases.csv").read_bytes() == before
    split(cohort, 4, 6, overwrite=True)
    assert len(patients_of(tmp_path)["val"]) == 6


def test_fractions_use_every_patient_when_they_sum_to_one(tmp_path):
    cohort = make_cohort(tmp_path, patients=11, scans=1)
    assert split(cohort, 0.7, 0.2, 0.1) == {"train": 8, "val": 2, "test": 1}
    assert split(cohort, 0.5, 0.1, overwrite=True) == {"train": 6, "val": 1, "unused": 4}


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((8, 3), "train 8, val 3, test 0: 11 patients, but the cohort has 10"),
        ((0.8, 0.3), "fractions must sum to at most 1"),
        ((5, 0.2), "cannot be mixed with numbers"),
        ((0, 5), "train above 0"),
        ((5, -1), "none negative"),
        ((5.5, 1), "whole numbers of patients"),
        ((0.9, 0.01), "val would get none of 10 patients"),
    ],
)
def test_impossible_splits(tmp_path, numbers, message):
    with pytest.raises(InputError, match=message):
        split(make_cohort(tmp_path), *numbers)


def test_unannotated_patients_are_not_counted(tmp_path):
    cohort = make_cohort(tmp_path, patients=6, unlabelled=(0, 3))
    split(cohort, 0.5, 0.5)
    assert {"p0", "p3"} < patients_of(tmp_path)["train"] and len(patients_of(tmp_path)["train"]) == 2 + 2
    with pytest.raises(InputError, match="5 patients, but the cohort has 4 with annotations"):
        split(cohort, 4, 1, overwrite=True)


def test_overlap_is_found_in_cases_and_in_what_a_generator_has_seen(tmp_path):
    real = make_cohort(tmp_path / "real")
    split(real, 6, 4)
    real = Cohort.open(tmp_path / "real")
    train, val = real.split("train"), real.split("val")
    check_no_overlap(train, val)
    facts = {"training_patients": list(train.patients)}
    made = make_cohort(tmp_path / "made", prefix="synthetic", source="synthetic", manifest=facts)
    assert training_patients(made) == set(train.patients) and training_patients(real) == frozenset()
    check_no_overlap(made, val)
    with pytest.raises(InputError, match=rf"share 6 patients \({sorted(train.patients)[0]}, .* and 1 more\)"):
        check_no_overlap(made, train)
    with pytest.raises(InputError, match=rf"share 1 patients \({val.patients[0]}\)"):
        check_no_overlap(val.subset([val.names[0]]), val)


def test_a_synthetic_cohort_that_hides_its_training_patients_is_refused(tmp_path):
    made = make_cohort(tmp_path / "made", source="synthetic", manifest={"generator": "x"})
    with pytest.raises(InputError, match="does not list training_patients"):
        training_patients(made)
    assert training_patients(make_cohort(tmp_path / "phantom", source="phantom")) == frozenset()

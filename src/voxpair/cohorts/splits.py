"""Splits: which patients train, validate and test. Drawn once, by patient, and kept in ``cases.csv``.

In: a cohort and three numbers. Out: the ``split`` column, with ``train``, ``val``, ``test``; ``unused`` for patients
who are left over. The numbers count patients with annotated cases. Patients without any cannot be scored, but a
generator and a pre-training learn from their images: they are all in ``train``, beyond its number.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from voxpair.cohorts.cohort import Cohort
from voxpair.cohorts.records import write_cases_csv
from voxpair.core.errors import InputError
from voxpair.core.run import derive_seed


def split(
    cohort: Cohort, train: float, val: float, test: float = 0, *, seed: int = 0, overwrite: bool = False
) -> dict[str, int]:
    """Draw a split by patient and write it to the cohort's ``cases.csv``.

    The draw depends on the patients' names and the seed alone, not on their order. Open the cohort again to see it.

    Args:
        cohort: any view of the cohort; the whole folder is split.
        train, val, test: numbers of patients, or, when one lies between 0 and 1, fractions that sum to at most 1.
        seed: of the draw.
        overwrite: replace another split that is there already.

    Returns:
        Number of cases by split.

    Raises:
        InputError: more patients asked for than there are, or another split is there already.
    """
    whole = Cohort.open(cohort.folder)
    annotated = set(whole.labelled().patients) or set(whole.patients)  # without any labels: images to pretrain on
    wanted = _numbers({"train": train, "val": val, "test": test}, len(annotated))
    order = np.random.default_rng(derive_seed("split", seed)).permutation(sorted(annotated)).tolist()
    part = dict.fromkeys(whole.patients, "train") | dict.fromkeys(order, "unused")
    for name, count in wanted.items():
        part |= dict.fromkeys(order[:count], name)
        order = order[count:]
    records = [replace(record, split=part[record.patient]) for record in whole.records]
    changed = [old.name for old, new in zip(whole.records, records) if old.split not in (None, new.split)]
    if changed and not overwrite:
        raise InputError(
            f"{whole.folder} has another split already ({whole.split_counts}; case {changed[0]} would move). "
            "What was fitted on it would be tested on its own training patients; pass --overwrite to split anew."
        )
    write_cases_csv(whole.folder / "cases.csv", records)
    return replace(whole, records=tuple(records)).split_counts


def training_patients(cohort: Cohort) -> frozenset[str]:
    """Return the patients whose scans the generator of a synthetic cohort has learnt from; none for a real cohort.

    Raises:
        InputError: the cohort is synthetic and does not say it, so leakage could not be excluded.
    """
    named = cohort.manifest.get("training_patients")
    if named is None and any(record.source == "synthetic" for record in cohort.records):
        raise InputError(
            f"{cohort.folder} is synthetic, but its manifest.json does not list training_patients, so it cannot be "
            "known whom its generator has seen. Sample it again, or write the list there."
        )
    return frozenset(map(str, named or ()))


def patients_behind(cohort: Cohort) -> frozenset[str]:
    """Return the patients that whoever learns from ``cohort`` has seen: its own, and those its maker learnt from."""
    return frozenset(cohort.patients) | training_patients(cohort)


def check_no_overlap(first: Cohort, second: Cohort) -> None:
    """Raise if a patient is in both cohorts, be it as a case or as one of a generator's training patients."""
    check_unseen(patients_behind(first), str(first.folder), second, "Fit the generator on the training patients only")


def check_unseen(seen: Iterable[str], by: str, cohort: Cohort, advice: str) -> None:
    """Raise if any patient of ``cohort`` is among those ``seen``; ``by`` names the one who has seen them."""
    shared = sorted(set(seen) & patients_behind(cohort))
    if shared:
        more = f" and {len(shared) - 5} more" if len(shared) > 5 else ""
        raise InputError(
            f"{by} and {cohort.folder} share {len(shared)} patients ({', '.join(shared[:5])}{more}), so "
            f"scores would be too good. {advice}, or take another test set."
        )


def _numbers(asked: dict[str, float], patients: int) -> dict[str, int]:
    """Return whole numbers of patients; fractions are rounded so that fractions summing to 1 use every patient."""
    said = ", ".join(f"{name} {value:g}" for name, value in asked.items())
    if any(value < 0 for value in asked.values()) or asked["train"] <= 0:
        raise InputError(f"split into {said}: expected numbers of patients, train above 0 and none negative")
    if not any(0 < value < 1 for value in asked.values()):
        if any(value != int(value) for value in asked.values()):
            raise InputError(f"split into {said}: expected whole numbers of patients, or fractions below 1")
        if sum(asked.values()) > patients:
            raise InputError(
                f"split into {said}: {sum(asked.values()):g} patients, but the cohort has {patients} with annotations"
            )
        return {name: int(value) for name, value in asked.items()}
    if sum(asked.values()) > 1 + 1e-9:
        raise InputError(f"split into {said}: fractions must sum to at most 1, and cannot be mixed with numbers")
    ends = np.rint(np.cumsum(list(asked.values())) * patients).astype(int)
    numbers = dict(zip(asked, np.diff(ends, prepend=0).tolist()))
    for name, value in asked.items():
        if value > 0 and numbers[name] == 0:
            raise InputError(f"split into {said}: {name} would get none of {patients} patients; give numbers instead")
    return numbers

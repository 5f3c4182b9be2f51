"""Who teaches a segmenter and who judges it: real, made and held-out cases, and what they must not share.

Takes cohorts, plain or prepared; gives :class:`Pairs`, or an error that names the patients or the folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from voxpair.cohorts.cohort import Cohort
from voxpair.cohorts.datasets import PreparedCohort
from voxpair.cohorts.splits import check_no_overlap
from voxpair.core.errors import InputError
from voxpair.core.run import derive_seed


@dataclass(frozen=True)
class Pairs:
    """The prepared, annotated cases of a fit; ``held_out`` decides when to stop."""

    real: PreparedCohort
    synthetic: PreparedCohort | None
    held_out: PreparedCohort | None


def check_patients(real: Cohort, synthetic: Sequence[Cohort], validation: Cohort | None) -> None:
    """Refuse validation cases that are synthetic, or of patients that this segmenter or the generator learns from."""
    if validation is None:
        return
    if any(record.source == "synthetic" for record in validation.records):
        raise InputError(f"{validation.folder} holds synthetic cases; only real ones may decide when to stop")
    for teaching in (real, *synthetic):
        check_no_overlap(teaching, validation)


def hold_out_a_tenth(pairs: Pairs, seed: int) -> Pairs:
    """Take a tenth of all training pairs, real and synthetic, out for validation, as Ikuta et al. do."""
    real = len(pairs.real)
    total = real + (len(pairs.synthetic) if pairs.synthetic else 0)
    order = np.random.default_rng(derive_seed("tenth", seed)).permutation(total).tolist()
    chosen = set(order[: max(1, round(total / 10))])
    kept = [i for i in range(real) if i not in chosen]
    if not kept:
        raise InputError(f"a tenth of {total} pairs cannot be held out: no real training case would be left")
    parts = [_part(pairs.real, kept), _part(pairs.real, [i for i in range(real) if i in chosen])]
    if pairs.synthetic:
        places = range(total - real)
        parts.append(_part(pairs.synthetic, [i for i in places if i + real in chosen]))
        synthetic = _part(pairs.synthetic, [i for i in places if i + real not in chosen])
    else:
        synthetic = None
    return Pairs(parts[0], synthetic or None, PreparedCohort.concat(*parts[1:]))


def _part(prepared: PreparedCohort, indices: Sequence[int]) -> PreparedCohort:
    files, facts = prepared.files, prepared.facts
    return replace(prepared, files=tuple(files[i] for i in indices), facts=tuple(facts[i] for i in indices))

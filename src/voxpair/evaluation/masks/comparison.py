"""Is one protocol better than another on the same test patients?

Takes the ``masks.csv`` of each protocol and seed, gives ``comparison.json``: paired differences of Dice with their
intervals, over all structures and for each of them.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from voxpair.core.errors import InputError
from voxpair.core.run import make_folder, write_json
from voxpair.evaluation.statistics import compare, holm

DiceByRow = Mapping[tuple[str, str, str], float]
"""(case, patient, structure) to Dice; NaN where the structure is rightly absent."""


def compare_protocols(
    protocols: Mapping[str, Sequence[Path]], pairs: Sequence[tuple[str, str]], out: Path, *, seed: int = 0
) -> dict[str, Any]:
    """Compare the Dice of protocols on the same test cases; write and return what ``comparison.json`` holds.

    The first pair on all structures is the primary comparison. The tests per structure are secondary, and their
    p values are adjusted together (Holm). Where only some runs drew a structure that is rightly absent, the others
    count as 1 there: an invented structure must cost. Where all agree that it is absent, the case is left out.

    Args:
        protocols: name to the evaluation folders of its seeds, each with a ``masks.csv``.
        pairs: ``(a, b)`` names; the difference is a minus b.
        out: the file to write.

    Raises:
        InputError: a file is missing, or the runs do not cover the same cases and structures.

    Example:
        ``compare_protocols({"baseline": [one], "ours": [two]}, [("ours", "baseline")], run / "comparison.json")``
    """
    tables = {
        name: [_read_dice(Path(folder) / "masks.csv") for folder in folders] for name, folders in protocols.items()
    }
    comparisons = []
    for a, b in pairs:
        first = tables[b][0]
        if any(set(table) != set(first) for table in tables[a] + tables[b]):
            raise InputError(f"protocols {a!r} and {b!r} were evaluated on different cases or structures")
        structures = list(dict.fromkeys(structure for _, _, structure in first))
        for structure in (None, *structures):
            scores = _by_patient(tables[a] + tables[b], structures if structure is None else [structure])
            if scores.shape[1] == 0:
                continue
            result = asdict(compare(scores[: len(tables[a])], scores[len(tables[a]) :], seed=seed))
            comparisons.append({"a": a, "b": b, "structure": structure, **result})
    secondary = [c for c in comparisons if c["structure"] is not None and c["p_value"] is not None]
    for comparison, p_holm in zip(secondary, holm([c["p_value"] for c in secondary])):
        comparison["p_holm"] = p_holm
    content = {"metric": "dice", "unit": "patient", "comparisons": comparisons}
    make_folder(Path(out).parent)
    write_json(Path(out), content)
    return content


def rank_cases(folder: Path) -> list[str]:
    """Return the cases of an evaluation folder from the lowest to the highest mean Dice over structures."""
    by_case: dict[str, list[float]] = {}
    for (case, _, _), dice in _read_dice(Path(folder) / "masks.csv").items():
        by_case.setdefault(case, []).append(dice)
    means = {case: float(np.nanmean(values)) for case, values in by_case.items() if np.isfinite(values).any()}
    return sorted(means, key=means.__getitem__)


def _read_dice(path: Path) -> DiceByRow:
    if not path.is_file():
        raise InputError(f"there is no file {path}; evaluate the masks of every protocol first")
    with path.open(newline="", encoding="utf-8") as stream:
        return {(r["case"], r["patient"], r["structure"]): float(r["dice"] or "nan") for r in csv.DictReader(stream)}


def _by_patient(tables: Sequence[DiceByRow], structures: Sequence[str]) -> np.ndarray:
    """Return the mean Dice per run and patient: over structures, then over the patient's cases; shape (runs, P)."""
    keys = [key for key in tables[0] if key[2] in structures]
    scores = np.array([[table[key] for key in keys] for table in tables])
    kept = np.isfinite(scores).any(axis=0)
    scores = np.where(np.isfinite(scores), scores, 1.0)[:, kept]
    by_case: dict[str, dict[str, list[int]]] = {}
    for column, (case, patient, _) in enumerate(key for key, keep in zip(keys, kept) if keep):
        by_case.setdefault(patient, {}).setdefault(case, []).append(column)
    means = [
        np.mean([scores[:, columns].mean(axis=1) for columns in cases.values()], axis=0) for cases in by_case.values()
    ]
    return np.array(means).T if means else np.empty((len(tables), 0))

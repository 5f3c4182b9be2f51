"""What are protocols worth over all their seeds, and is one better than another on the same test patients?

Takes the evaluation folders of each protocol, one a seed; gives ``comparison.json``: the summary of every protocol,
pooled over its seeds; paired differences of Dice with their intervals, over all structures and for each of them; and
those of the error of volume, in mL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from voxpair.core.errors import InputError
from voxpair.core.run import make_folder, write_json
from voxpair.evaluation.masks.agreement import read_rows
from voxpair.evaluation.masks.summary import ScoreTable, pool
from voxpair.evaluation.statistics import by_patient, compare, holm, mean_of_defined


def compare_protocols(
    protocols: Mapping[str, Sequence[Path]], pairs: Sequence[tuple[str, str]], out: Path, *, seed: int = 0
) -> dict[str, Any]:
    """Pool and compare protocols; write and return what ``comparison.json`` holds.

    The first pair on all structures is the primary comparison, and its p value stands as it is. There are two families
    of secondary tests, the other pairs on all structures, and all pairs on single structures; within each, p values are
    adjusted together (Holm). Differences of the absolute error of volume say how large an effect is in mL; they are
    looked at, not tested together. Where only some runs drew a structure that is rightly absent, the others count as 1
    there; where all agree that it is absent, the case is left out.

    Args:
        protocols: name to the evaluation folders of its seeds, each with ``masks.csv`` and ``masks.json``.
        pairs: ``(a, b)`` names; the difference is a minus b.
        out: the file to write.

    Raises:
        InputError: a file is missing, or the runs do not cover the same cases and structures.

    Example:
        ``compare_protocols({"baseline": [one], "ours": [two]}, [("ours", "baseline")], run / "comparison.json")``
    """
    pooled = {name: asdict(pool(folders, seed=seed)) for name, folders in protocols.items()}
    runs = {name: [read_rows(folder / "masks.csv") for folder in folders] for name, folders in protocols.items()}
    comparisons, volumes = [], []
    for a, b in pairs:
        try:
            table = ScoreTable(runs[a] + runs[b])
        except InputError as error:
            raise InputError(f"protocols {a!r} and {b!r} cannot be compared: {error}") from None
        for structure in (None, *table.structures):
            columns = slice(None) if structure is None else [table.structures.index(structure)]
            for metric, found in (("dice", comparisons), ("volume_error_ml", volumes)):
                scores = _of_patients(np.abs(table.scores(metric))[..., columns], table.patients)
                if scores.shape[1]:
                    result = compare(scores[: len(runs[a])], scores[len(runs[a]) :], seed=seed)
                    found.append({"a": a, "b": b, "structure": structure, **asdict(result)})
    _adjust([c for c in comparisons if c["structure"] is None][1:])
    _adjust([c for c in comparisons if c["structure"] is not None])
    content = {
        "metric": "dice",
        "unit": "patient",
        "protocols": pooled,
        "comparisons": comparisons,
        "volume_errors_ml": volumes,
    }
    make_folder(Path(out).parent)
    write_json(Path(out), content)
    return content


def rank_cases(folder: Path) -> list[str]:
    """Return the cases of an evaluation folder from the lowest to the highest mean Dice over structures."""
    table = ScoreTable([read_rows(folder / "masks.csv")])
    means = dict(zip(table.cases, mean_of_defined(table.scores("dice")[0], axis=1)))
    return sorted((case for case in means if np.isfinite(means[case])), key=means.__getitem__)


def _of_patients(dice: np.ndarray, patients: Sequence[str]) -> np.ndarray:
    """Return the mean over structures, then over a patient's cases, of Dice (S, N, K); patients without one are out."""
    scores = np.stack([by_patient(mean_of_defined(run, axis=1), patients) for run in dice])
    return scores[:, np.isfinite(scores).all(axis=0)]


def _adjust(family: Sequence[dict[str, Any]]) -> None:
    """Add ``p_holm`` to the tests of one family that have a p value."""
    tested = [c for c in family if c["p_value"] is not None]
    for comparison, p_holm in zip(tested, holm([c["p_value"] for c in tested])):
        comparison["p_holm"] = p_holm

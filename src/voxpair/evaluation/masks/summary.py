"""What the rows of ``masks.csv`` come to: means over patients, of one run or pooled over the seeds of a protocol.

Takes rows of ``agreement``, a list per seed; gives what ``masks.json`` and ``comparison.json`` hold. The patient is the
unit: a score is averaged over seeds, then over the scans of a patient, then over patients, and intervals draw patients
(``statistics``). This is the only place where seeds are pooled.

A structure that is rightly absent is in no mean. Where it was invented with some seeds and rightly left out with
others, the latter count as perfect (``PERFECT``): an invented structure must cost, and cost more the more seeds do it.

Shapes: S seeds, N cases, P patients, K structures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from voxpair.core.errors import InputError
from voxpair.core.run import read_json, write_json
from voxpair.evaluation.masks.agreement import METRICS, Agreement, Row, Status, read_rows
from voxpair.evaluation.statistics import bootstrap_interval, by_patient, mean_of_defined, sample_sd

STATUSES: tuple[Status, ...] = ("ok", "ref_empty", "pred_empty", "both_empty")
PERFECT = {"dice": 1.0, "hd95_mm": 0.0, "assd_mm": 0.0, "nsd": 1.0, "volume_error_ml": 0.0}
_ONE_SIDED = ("ref_empty", "pred_empty")


@dataclass(frozen=True)
class Estimate:
    """A mean over patients; None where it cannot be known.

    Args:
        sd: over patients.
        sd_seeds: over seeds, of the mean over patients; None for one seed.
        low, high: 95 % bootstrap interval over patients.
        patients: how many entered the mean.
        undefined: in how many cases (of all seeds) one mask was empty and a distance took its worst value.
    """

    mean: float | None
    sd: float | None
    sd_seeds: float | None
    low: float | None
    high: float | None
    patients: int
    undefined: int = 0


@dataclass(frozen=True)
class StructureSummary:
    """All metrics of one structure, the Dice of each patient who has it, and how many cases have which status."""

    dice: Estimate
    hd95_mm: Estimate
    assd_mm: Estimate
    nsd: Estimate
    volume_error_ml: Estimate
    dice_of_patients: Sequence[float]
    counts: Mapping[Status, int]


@dataclass(frozen=True)
class Summary:
    """What ``masks.json`` holds, and ``comparison.json`` of every protocol.

    ``dice`` is the mean over structures of each structure's mean over patients; its SD is over patients, of the mean
    over the structures of a patient. ``counts`` of structures are summed over seeds.
    """

    dice: Estimate
    structures: Mapping[str, StructureSummary]
    seeds: int
    cases: int
    patients: int
    tolerance_mm: float
    missing_predictions: Sequence[str]
    extra_predictions: Sequence[str]

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))

    def as_text(self) -> str:
        """Return the means for a terminal, a line per structure."""
        lines = [f"{'structure':<16}{'Dice':>8}{'HD95 mm':>10}{'NSD':>8}   over {self.patients} patients"]
        for name, found in self.structures.items():
            means = [found.dice.mean, found.hd95_mm.mean, found.nsd.mean]
            dice, hd95, nsd = ("-" if mean is None else f"{mean:.3f}" for mean in means)
            lines.append(f"{name:<16}{dice:>8}{hd95:>10}{nsd:>8}")
        mean = "-" if self.dice.mean is None else f"{self.dice.mean:.3f}"
        return "\n".join([*lines, f"{'mean':<16}{mean:>8}"])


@dataclass(frozen=True)
class ScoreTable:
    """The rows of several runs on the same cases, as arrays; ``runs`` is a list of rows per seed.

    Raises:
        InputError: the runs do not cover the same cases and structures.
    """

    runs: Sequence[Sequence[Row]]

    def __post_init__(self) -> None:
        first = _keys(self.runs[0])
        for run in self.runs:
            if _keys(run) != first:
                raise InputError(f"the runs cover different cases or structures: {_first(_keys(run) ^ first)}")

    @cached_property
    def cases(self) -> dict[str, str]:
        """Case to patient."""
        return {row.case: row.patient for row in self.runs[0]}

    @property
    def patients(self) -> list[str]:
        """The patient of each case; shape (N,)."""
        return list(self.cases.values())

    @cached_property
    def structures(self) -> list[str]:
        return list(dict.fromkeys(row.structure for row in self.runs[0]))

    def statuses(self, structure: str) -> list[Status]:
        return [row.agreement.status for run in self.runs for row in run if row.structure == structure]

    def scores(self, metric: str) -> np.ndarray:
        """Return the scores, shape (S, N, K); NaN, which no file ever sees, where the structure is rightly absent."""
        found = [{(row.case, row.structure): _score(row.agreement, metric) for row in run} for run in self.runs]
        scores = np.array([[[run[case, name] for name in self.structures] for case in self.cases] for run in found])
        return np.where(np.isnan(scores) & ~np.isnan(scores).all(axis=0), PERFECT[metric], scores)


def summarise(
    runs: Sequence[Sequence[Row]],
    *,
    tolerance_mm: float,
    missing: Sequence[str] = (),
    extra: Sequence[str] = (),
    seed: int = 0,
) -> Summary:
    """Return means, intervals and counts of ``runs``, a list of rows per seed."""
    table = ScoreTable(runs)
    scores = {metric: table.scores(metric) for metric in METRICS}
    summaries = {}
    for column, name in enumerate(table.structures):
        counts = Counter(table.statuses(name))
        one_sided = sum(counts[status] for status in _ONE_SIDED)
        estimates = {metric: _estimate(scores[metric][..., [column]], table.patients, seed) for metric in METRICS}
        for metric in ("hd95_mm", "assd_mm"):
            estimates[metric] = replace(estimates[metric], undefined=one_sided)
        dice = by_patient(scores["dice"][..., column].mean(axis=0), table.patients)
        summaries[name] = StructureSummary(
            **estimates,
            dice_of_patients=dice[np.isfinite(dice)].tolist(),
            counts={status: counts[status] for status in STATUSES},
        )
    return Summary(
        dice=_estimate(scores["dice"], table.patients, seed),
        structures=summaries,
        seeds=len(runs),
        cases=len(table.cases),
        patients=len(set(table.patients)),
        tolerance_mm=float(tolerance_mm),
        missing_predictions=list(missing),
        extra_predictions=list(extra),
    )


def pool(folders: Sequence[Path], *, seed: int = 0) -> Summary:
    """Return the summary of the evaluation folders of all seeds of one protocol.

    Raises:
        InputError: a file is missing, or the seeds were judged on other cases or with other tolerances.
    """
    summaries = [read_summary(folder / "masks.json") for folder in folders]
    tolerances = {summary.tolerance_mm for summary in summaries}
    if len(tolerances) > 1:
        raise InputError(
            f"the seeds under {folders[0]} were judged with tolerances of {sorted(tolerances)} mm; use one"
        )
    missing, extra = (
        sorted({name for summary in summaries for name in getattr(summary, names)})
        for names in ("missing_predictions", "extra_predictions")
    )
    rows = [read_rows(folder / "masks.csv") for folder in folders]
    return summarise(rows, tolerance_mm=tolerances.pop(), missing=missing, extra=extra, seed=seed)


def read_summary(path: Path) -> Summary:
    """Read a ``masks.json``.

    Raises:
        InputError: there is no such file, or it was written by another version.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}; evaluate the masks of every protocol first")
    content = read_json(path)
    try:
        structures = {
            name: StructureSummary(**found | {metric: Estimate(**found[metric]) for metric in METRICS})
            for name, found in content["structures"].items()
        }
        return Summary(**content | {"dice": Estimate(**content["dice"]), "structures": structures})
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} is no summary that this version reads ({error}); evaluate the masks again") from None


def _score(found: Agreement, metric: str) -> float:
    return np.nan if found.status == "both_empty" else getattr(found, metric)


def _estimate(scores: np.ndarray, patients: Sequence[str], seed: int) -> Estimate:
    """Summarise ``scores`` of shape (S, N, K): mean over the K structures of the mean over patients."""
    of_patients = by_patient(scores.mean(axis=0), patients)  # what is NaN with one seed is with all
    if not np.isfinite(of_patients).any():
        return Estimate(None, None, None, None, None, 0)
    low, high = bootstrap_interval(of_patients, seed=seed)
    known = mean_of_defined(of_patients, axis=1)
    return Estimate(
        mean=_overall(of_patients),
        sd=sample_sd(known),
        sd_seeds=sample_sd([_overall(by_patient(run, patients)) for run in scores]),
        low=low,
        high=high,
        patients=int(np.isfinite(known).sum()),
    )


def _overall(of_patients: np.ndarray) -> float:
    return float(mean_of_defined(mean_of_defined(of_patients, axis=0), axis=0))


def _keys(rows: Sequence[Row]) -> set[tuple[str, str, str]]:
    return {(row.case, row.patient, row.structure) for row in rows}


def _first(keys: set[tuple[str, str, str]]) -> str:
    return ", ".join(min(keys))

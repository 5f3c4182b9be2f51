"""Segmentation on the page: a table per metric, every patient's Dice, the paired differences.

Takes the summaries of the protocols and their comparisons, gives tables of text and drawings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from voxpair.report import charts
from voxpair.report.results import Results
from voxpair.report.words import number, protocol_name

_ENDS = ("difference", "low", "high")


@dataclass(frozen=True)
class Metric:
    """How a metric is shown; ``best`` picks the best of several means."""

    key: str
    title: str
    note: str
    digits: int
    best: Callable[[Sequence[float]], float]


def _nearest_to_zero(values: Sequence[float]) -> float:
    return min(values, key=abs)


METRICS = (
    Metric("dice", "Dice", "overlap, 0 to 1; higher is better", 3, max),
    Metric("hd95_mm", "HD95, mm", "95th percentile of surface distance; lower is better", 2, min),
    Metric("assd_mm", "ASSD, mm", "average symmetric surface distance; lower is better", 2, min),
    Metric("nsd", "Surface Dice", "share of the surface within tolerance; higher is better", 3, max),
    Metric(
        "volume_error_ml", "Volume error, mL", "predicted minus reference; nearer to 0 is better", 2, _nearest_to_zero
    ),
)


@dataclass(frozen=True)
class Cell:
    """A mean with its interval, as text."""

    mean: str
    interval: str
    best: bool
    undefined: int


@dataclass(frozen=True)
class Table:
    """One metric by structure (rows) and protocol (columns)."""

    metric: Metric
    rows: Sequence[tuple[str, Sequence[Cell]]]

    @property
    def has_undefined(self) -> bool:
        return any(cell.undefined for _, cells in self.rows for cell in cells)


def tables(results: Results) -> list[Table]:
    """Return a table per metric; the best mean of every row is marked."""
    summaries = [evaluation.summary for evaluation in results.evaluations.values()]
    names = list(dict.fromkeys(name for summary in summaries for name in summary["structures"]))
    found = []
    for metric in METRICS:
        rows = [
            (name, _cells([s["structures"].get(name, {}).get(metric.key) for s in summaries], metric)) for name in names
        ]
        if metric.key == "dice" and summaries:
            rows.append(("Mean", _cells([summary["dice"] for summary in summaries], metric)))
        found.append(Table(metric, rows))
    return found


def _cells(estimates: Sequence[Mapping[str, Any] | None], metric: Metric) -> list[Cell]:
    means = [estimate["mean"] for estimate in estimates if estimate and estimate["mean"] is not None]
    texts = {number(mean, metric.digits) for mean in means}
    # What reads the same is not better: nothing is marked where all means read alike.
    best = number(metric.best(means), metric.digits) if len(texts) > 1 else None
    cells = []
    for estimate in estimates:
        if not estimate or estimate["mean"] is None:
            cells.append(Cell("–", "", False, 0))
            continue
        mean, low, high = (number(estimate[key], metric.digits) for key in ("mean", "low", "high"))
        interval = "" if estimate["low"] is None else f"{low} to {high}"
        cells.append(Cell(mean, interval, mean == best, estimate.get("undefined", 0)))
    return cells


def dice_drawing(results: Results) -> charts.Drawing | None:
    scores = {
        name: {structure: found["dice_of_patients"] for structure, found in evaluation.summary["structures"].items()}
        for name, evaluation in results.evaluations.items()
    }
    if not any(values for by_structure in scores.values() for values in by_structure.values()):
        return None
    words = (
        f"Dice of every patient by structure, for {', '.join(map(protocol_name, scores))}; the means are in the table."
    )
    return charts.drawing(charts.dice_plot(scores), words)


def difference_drawing(results: Results) -> charts.Drawing | None:
    primary = next((c for c in results.comparisons if c["structure"] is None), None)
    if primary is None:
        return None
    rows = [
        (
            c["structure"] or "all structures",
            *(None if c[k] is None else 100 * c[k] for k in _ENDS),
        )
        for c in results.comparisons
        if (c["a"], c["b"]) == (primary["a"], primary["b"])
    ]
    a, b = protocol_name(primary["a"]), protocol_name(primary["b"]).lower()
    words = ". ".join(
        f"{name}: {number(d, 1, sign=True)} points ({number(lo, 1)} to {number(hi, 1)})" for name, d, lo, hi in rows
    )
    label = f"{a} minus {b}, Dice points (95 % interval)"
    return charts.drawing(charts.difference_plot(rows, label=label), words)

"""The study on the page: a table per number of cases, Dice against the number of cases, and what it comes to.

Takes the rows of ``study.json``; gives tables of text, a drawing, and a verdict for a folder that has no evaluation of
its own, since its experiments lie in sub-folders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from voxpair.report import charts
from voxpair.report.verdict import FEWEST_PATIENTS, sign_of
from voxpair.report.words import Verdict, counted, number, p_value, points, protocol_name

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class StudyTable:
    """All arms at one number of cases; ``lines`` are (arm, cells), the cells as ``heads`` names them."""

    title: str
    note: str
    heads: Sequence[str]
    lines: Sequence[tuple[str, Sequence[str]]]


def tables(rows: Rows) -> list[StudyTable]:
    """Return a table per number of labelled and unlabelled cases, in the order of the rows."""
    found = []
    for counts in dict.fromkeys(map(_counts, rows)):
        group = [row for row in rows if _counts(row) == counts]
        means = [row for row in group if row["structure"] is None]
        structures = list(dict.fromkeys(row["structure"] for row in group if row["structure"] is not None))
        dice = {(row["arm"], row["structure"]): row["dice"] for row in group}
        lines = []
        for mean in means:
            p_shown = mean["p_value"] if mean["p_holm"] is None else mean["p_holm"]
            cells = [str(mean["updates"]), str(mean["seeds"]), _with_sd(mean)]
            cells += [number(dice.get((mean["arm"], name))) for name in structures]
            lines.append((protocol_name(mean["arm"]), [*cells, _difference(mean), p_value(p_shown)]))
        smallest = [row["smallest_detectable"] for row in means if row["smallest_detectable"] is not None]
        note = f"{counted(means[0]['patients'], 'held-out patient')}"
        if smallest:
            note += f"; a mean difference of {points(max(smallest))} points would have shown with 80 % power"
        heads = ["Updates", "Seeds", "Mean Dice", *structures, "Difference, points", "p"]
        found.append(StudyTable(_title(counts), note, heads, lines))
    return found


def drawing(rows: Rows) -> charts.Drawing | None:
    """Draw the mean Dice of every arm over the number of labelled cases, where there is more than one number."""
    means = [row for row in rows if row["structure"] is None and row["dice"] is not None]
    if len({row["labelled"] for row in means}) < 2:
        return None
    several = len({_counts(row) for row in means}) > len({row["labelled"] for row in means})
    series: dict[str, list[tuple[float, float]]] = {}
    for row in means:
        name = f"{row['arm']}, {row['unlabelled']} unlabelled" if several else row["arm"]
        series.setdefault(name, []).append((row["labelled"], row["dice"]))
    words = "Mean Dice by number of labelled training cases: " + "; ".join(
        f"{protocol_name(name)} {', '.join(f'{number(dice)} at {count}' for count, dice in found)}"
        for name, found in series.items()
    )
    return charts.drawing(charts.curves(series, label="mean Dice", over="labelled training cases", log=False), words)


def verdict(rows: Rows) -> Verdict:
    """Word the first comparison at every number of cases; better only where it is at all of them."""
    first = [next((r for r in rows if _counts(r) == counts and _primary(r)), None) for counts in _sizes(rows)]
    compared = [row for row in first if row is not None]
    if not compared:
        return Verdict("open", "No comparison yet", ["Only one arm has been judged so far."])
    sentences = [
        f"{_title(_counts(row))}: {protocol_name(row['arm'])} {number(row['dice'])}, {_difference(row)} points against "
        f"{protocol_name(row['reference']).lower()} over {counted(row['patients'], 'patient')} and "
        f"{counted(row['seeds'], 'seed')}."
        for row in compared
    ]
    signs = {sign_of(row) if row["patients"] >= FEWEST_PATIENTS else 0 for row in compared}
    if signs == {1}:
        return Verdict("better", f"{protocol_name(compared[0]['arm'])} is better", sentences)
    if signs == {-1}:
        return Verdict("worse", f"{protocol_name(compared[0]['arm'])} is worse", sentences)
    return Verdict("open", "It depends on the number of cases, or is open", sentences)


def _primary(row: Mapping[str, Any]) -> bool:
    return row["structure"] is None and row["difference"] is not None and row["arm"].startswith("ours")


def _sizes(rows: Rows) -> list[tuple[int, int]]:
    return list(dict.fromkeys(map(_counts, rows)))


def _counts(row: Mapping[str, Any]) -> tuple[int, int]:
    return row["labelled"], row["unlabelled"]


def _title(counts: tuple[int, int]) -> str:
    return f"{counts[0]} labelled and {counts[1]} unlabelled training cases"


def _with_sd(row: Mapping[str, Any]) -> str:
    return number(row["dice"]) if row["sd_seeds"] is None else f"{number(row['dice'])} ± {number(row['sd_seeds'])}"


def _difference(row: Mapping[str, Any]) -> str:
    if row["difference"] is None:
        return "reference"
    interval = "" if row["low"] is None else f" [{points(row['low'])}, {points(row['high'])}]"
    return f"{points(row['difference'], sign=True)}{interval}"

"""The table of a study, in three forms from the same rows: ``study.json``, ``study.csv``, ``study.md``.

Takes what ``comparison.json`` holds; a row is one arm on one structure (or on the mean over structures) at one
number of labelled and unlabelled cases. The rows are all there is: the report draws its table from ``study.json``.

    labelled, unlabelled   training cases
    arm, about, updates    how the segmenter was made
    structure              None for the mean over structures
    dice, sd_seeds         mean over seeds and patients; SD over seeds, None for one seed
    reference, difference, low, high, p_value, p_holm, smallest_detectable
                           against the first arm, in Dice, paired over patients (``evaluation.masks.comparison``);
                           p_holm is None for the primary comparison, whose p value stands as it is
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any

from voxpair.core.run import make_folder, write_json, write_text
from voxpair.plans import Plan


@dataclass(frozen=True)
class Row:
    """One line of the table; see the top of this module."""

    labelled: int
    unlabelled: int
    arm: str
    about: str
    updates: int
    structure: str | None
    seeds: int
    patients: int
    dice: float | None
    sd_seeds: float | None
    reference: str | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    p_holm: float | None = None
    smallest_detectable: float | None = None


_OF_COMPARISON = ("difference", "low", "high", "p_value", "p_holm", "smallest_detectable")


def describe_arm(
    counts: tuple[int, int],
    name: str,
    about: str,
    updates: int,
    compared: Mapping[str, Any],
) -> list[Row]:
    """Return the rows of one arm: the mean over structures first.

    Args:
        counts: labelled and unlabelled training cases.
        compared: of ``compare_protocols``; the first comparison of this arm with another is the one shown.
    """
    summary, comparisons = compared["protocols"][name], compared["comparisons"]
    reference = next((c["b"] for c in comparisons if c["a"] == name), None)
    rows = []
    for structure in (None, *summary["structures"]):
        dice = summary["dice"] if structure is None else summary["structures"][structure]["dice"]
        found = next((c for c in comparisons if (c["a"], c["b"], c["structure"]) == (name, reference, structure)), {})
        rows.append(
            Row(
                *counts,
                name,
                about,
                updates,
                structure,
                seeds=summary["seeds"],
                patients=summary["patients"],
                dice=dice["mean"],
                sd_seeds=dice["sd_seeds"],
                reference=reference,
                **{key: found.get(key) for key in _OF_COMPARISON},
            )
        )
    return rows


def write_tables(folder: Path, plan: Plan, rows: Sequence[Row]) -> None:
    """Write the three files, each whole or not at all."""
    make_folder(folder)
    content = [asdict(row) for row in rows]
    write_json(folder / "study.json", {"generator": plan.uses, "about": plan.about, "rows": content})
    stream = io.StringIO()
    table = csv.DictWriter(stream, [field.name for field in fields(Row)], lineterminator="\n")
    table.writeheader()
    table.writerows(content)
    write_text(folder / "study.csv", stream.getvalue())
    write_text(folder / "study.md", as_markdown(rows))


def as_markdown(rows: Sequence[Row]) -> str:
    """Return a table per number of cases: arms down, structures across, the difference with its interval last."""
    parts = []
    for (labelled, unlabelled), group in groupby(rows, key=lambda row: (row.labelled, row.unlabelled)):
        group = list(group)
        means = [row for row in group if row.structure is None]
        structures = list(dict.fromkeys(row.structure for row in group if row.structure is not None))
        head = ["arm", "updates", "seeds", "mean Dice", *structures, "difference, points [95 %]", "p"]
        parts += [
            f"### {labelled} labelled, {unlabelled} unlabelled training cases; {means[0].patients} held-out patients",
            "",
            _line(head),
            _line(["---"] * len(head)),
        ]
        for mean in means:
            dice = {row.structure: row.dice for row in group if row.arm == mean.arm}
            cells = [mean.arm, str(mean.updates), str(mean.seeds), _dice(mean.dice, mean.sd_seeds)]
            cells += [_dice(dice[name]) for name in structures]
            parts.append(_line([*cells, _difference(mean), _p_value(mean)]))
        found = [row.smallest_detectable for row in means if row.smallest_detectable is not None]
        if found:
            parts += ["", f"Smallest mean difference shown with 80 % power: {100 * max(found):.2f} points."]
        parts.append("")
    return "\n".join(parts)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _dice(mean: float | None, sd: float | None = None) -> str:
    if mean is None:
        return "–"
    return f"{mean:.3f}" if sd is None else f"{mean:.3f} ± {sd:.3f}"


def _difference(row: Row) -> str:
    if row.difference is None:
        return "reference"
    ends = "" if row.low is None else f" [{100 * row.low:+.2f}, {100 * row.high:+.2f}]"
    return f"{100 * row.difference:+.2f}{ends}"


def _p_value(row: Row) -> str:
    value = row.p_value if row.p_holm is None else row.p_holm
    return "" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"

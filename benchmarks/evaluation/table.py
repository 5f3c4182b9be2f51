"""The last section of docs/evaluation.md, made from known_changes.json beside this script.

python benchmarks/evaluation/table.py      writes it; tests/docs/test_evaluation_page.py holds the page to the file
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from voxpair.report.words import significant

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "evaluation.md"
BEGIN = "<!-- known changes: written by benchmarks/evaluation/table.py -->\n"
END = "<!-- end of known changes -->\n"
TITLES = {"hippocampus": "Hippocampus MRI", "hearts": "Phantom hearts"}
VIEWS = ("axial", "coronal", "sagittal", "left-right", "back-front", "down-up")

Found = Mapping[str, Any]


def main() -> None:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + BEGIN + section() + END + after, encoding="utf-8")


def section() -> str:
    """Return what stands between the markers."""
    content = json.loads((HERE / "known_changes.json").read_text(encoding="utf-8"))
    cases, sets = content["cases_a_half"], content["sets"]
    head = f"""
{cases} real cases were changed in known ways and measured, as if they were synthetic, against {cases} others:
`{content["command"]}`.
`benchmarks/evaluation/known_changes.json` has commit, machine, seed and every interval. LPIPS is not there: it needs
weights of others. What differs in each set, as the report says it (the two intervals do not meet), and would not
differ without the change:

{summary(sets)}
In the tables below a cell is the measure's value. One arrow: it lies outside the floor's interval. Two arrows: the two
intervals do not meet. For measures of single structures alone, a cell says in how many of them it differs, above or
below.
"""
    return "\n".join([head, *(table(name, found) for name, found in sets.items())])


def summary(sets: Mapping[str, Found]) -> str:
    """Return a table: which measures see a change, and which groups have none that does."""
    first = next(iter(sets.values()))
    groups = list(dict.fromkeys(facts["group"] for facts in first["measures"].values()))
    lines = ["| change | " + " | ".join(TITLES[name] for name in sets) + " | blind in both |"]
    lines.append("| --- |" + " --- |" * (len(sets) + 1))
    for change in first["changes"]:
        seen = {name: seeing(found, change) for name, found in sets.items()}
        awake = {sets[name]["measures"][measure]["group"] for name, measures in seen.items() for measure in measures}
        cells = [", ".join(f"`{measure}`" for measure in measures) or "none" for measures in seen.values()]
        cells.append(", ".join(group for group in groups if group not in awake))
        lines.append(f"| {change} | " + " | ".join(cells) + " |")
    return "\n".join(lines[:2] + lines[3:]) + "\n"  # without "unchanged"


def seeing(found: Found, change: str) -> list[str]:
    """Return the measures that differ under ``change`` and do not on unchanged cases."""
    measured, unchanged = found["changes"][change], found["changes"]["unchanged"]
    return [name for name in rows(measured) if differs(measured[name]) and not differs(unchanged[name])]


def table(name: str, found: Found) -> str:
    judge, changes = found["judge"], found["changes"]
    unchanged = changes["unchanged"]
    lines = [
        f"### {TITLES[name]}",
        "",
        f"Extractor and judge: the preset `{judge['preset']}` with `{'`, `'.join(judge['set'])}` on "
        f"{judge['training_cases']} other cases,\nmean Dice {judge['mean_dice_on_real_half']:.2f} on the real half. "
        f"Swapped: {' and '.join(found['swapped'])}.",
        "",
        "| measure | floor | " + " | ".join(changes) + " |",
        "| --- | --- |" + " --- |" * len(changes),
    ]
    still = []
    for measure in rows(unchanged):
        cells = [cell(measured[measure]) for measured in changes.values()]
        if len(set(cells)) == 1:
            still.append(f"`{measure}` ({cells[0]})")
            continue
        lines.append(f"| `{measure}` | {floor(unchanged[measure])} | " + " | ".join(cells) + " |")
    counts = [sum(differs(measured[measure]) for measure in rows(measured)) for measured in changes.values()]
    lines.append(f"| **differ, of {len(rows(unchanged))}** | | " + " | ".join(f"**{n}**" for n in counts) + " |")
    lines += ["", f"The same under every change: {', '.join(still)}."]
    return "\n".join(lines) + "\n"


def cell(found: Found) -> str:
    """Return a value with its arrows, or in how many structures the measure differs.

    >>> cell({"value": 2.0, "low": 1.5, "high": 2.5, "floor": 1.0, "floor_low": 0.9, "floor_high": 1.1})
    '2 ↑↑'
    >>> cell({"structures": 8, "above": 2, "below": 0})
    '2↑ of 8'
    """
    if "structures" in found:
        told = [f"{found[way]}{arrow}" for way, arrow in (("above", "↑"), ("below", "↓")) if found[way]]
        return f"{' '.join(told) or 0} of {found['structures']}"
    if found["value"] is None:
        return "–"
    return f"{significant(found['value'])} {arrows(found)}".strip()


def arrows(found: Found) -> str:
    if None in (found["value"], found["floor_low"], found["floor_high"]):
        return ""
    if found["value"] > found["floor_high"]:
        return "↑↑" if found["low"] > found["floor_high"] else "↑"
    if found["value"] < found["floor_low"]:
        return "↓↓" if found["high"] < found["floor_low"] else "↓"
    return ""


def floor(found: Found) -> str:
    if "structures" in found or found["floor"] is None:
        return ""
    return f"{significant(found['floor'])} ({significant(found['floor_low'])} to {significant(found['floor_high'])})"


def rows(measured: Mapping[str, Found]) -> list[str]:
    """Return the measures that have a row: those of a single view have none."""
    return [name for name in measured if name.split(" ")[-1] not in VIEWS]


def differs(found: Found) -> bool:
    return found["above"] + found["below"] > 0 if "structures" in found else len(arrows(found)) == 2


if __name__ == "__main__":
    main()

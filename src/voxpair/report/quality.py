"""What the pairs are worth, in words and tables: every measure beside what real scans show against each other.

Takes ``pairs.json`` and ``curves.json``, gives two answers (are the pairs real enough? do image and labels agree?),
a table per group of measures, and drawings. A measure is said to differ only where its 95 % interval and that of real
scans do not meet; intervals that meet are never called equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from voxpair.report import charts
from voxpair.report.words import Tone, Verdict, counted, protocol_name, significant

Measures = Sequence[Mapping[str, Any]]
GROUPS = {
    "fidelity": "are synthetic volumes as near to real ones as other real ones are?",
    "diversity": "do they differ among themselves as real ones do?",
    "texture": "grey values, noise and sharpness inside the structures",
    "plausibility": "are the label maps possible anatomy?",
    "alignment": "do the labels lie where the image says?",
}
TITLES = {  # where the words of a name are not what a reader knows it by
    "frechet": "Fréchet distance",
    "kid": "kernel distance (KID)",
    "ms_ssim": "MS-SSIM",
    "ssim": "SSIM",
    "euler": "Euler number",
    "volume_ml": "volume",
    "holes_ml": "holes",
    "volume_ks": "volume distance (Kolmogorov-Smirnov)",
    "volume_emd_ml": "volume distance (earth mover)",
}
_BETTER = {"lower": "lower", "higher": "higher", "floor": "near real"}
_LEADS_SHOWN = 3
_ENDS = ("low", "high", "floor_low", "floor_high")


@dataclass(frozen=True)
class Reading:
    """How a measure stands to its floor; ``tone`` is "worse" where it differs in a direction that is not good."""

    tone: Tone
    words: str


@dataclass(frozen=True)
class Row:
    """One measure, or a family of them without an overall one, as text."""

    name: str
    value: str
    interval: str
    floor: str
    floor_interval: str
    better: str
    reading: Reading
    cases: str
    note: str


@dataclass(frozen=True)
class Table:
    """The measures of one group: one row per name, and all that are about a structure or a view."""

    title: str
    question: str
    rows: Sequence[Row]
    parts: Sequence[Row]


def reading(measure: Mapping[str, Any]) -> Reading:
    """Compare a measure with its floor by their intervals.

    >>> found = {"low": 2.0, "high": 3.0, "floor_low": 0.5, "floor_high": 1.0}
    >>> [reading(found | {"better": better}).words for better in ("lower", "higher", "floor")]
    ['worse than real', 'better than real', 'above real']
    >>> reading(found | {"better": "lower", "floor_high": 2.0}).words
    'not told apart'
    """
    if any(measure[end] is None for end in _ENDS):
        return Reading("open", "not known")
    above, below = measure["low"] > measure["floor_high"], measure["high"] < measure["floor_low"]
    if not above and not below:
        return Reading("better", "not told apart")
    if measure["better"] == "floor":
        return Reading("worse", "above real" if above else "below real")
    worse = above if measure["better"] == "lower" else below
    return Reading("worse", "worse than real") if worse else Reading("better", "better than real")


def realism(pairs: Mapping[str, Any] | None) -> Verdict:
    """Answer whether the pairs are real enough, from all groups but alignment."""
    if pairs is None:
        return _unmeasured("the synthetic pairs were not compared with real ones")
    measures = [m for m in pairs["measures"] if m["group"] != "alignment"]
    differing, known = _counts(measures)
    if not known:
        return _unknown(measures)
    sentences = []
    for group in GROUPS:
        if lead := _lead(measures, group):
            part, whole = _counts([m for m in measures if m["group"] == group])
            sentences.append(f"{protocol_name(group)} ({part} of {whole} differ): {_beside(lead)}.")
    near = [m for m in measures if m["group"] == "fidelity" and reading(m).words == "better than real"]
    if near:
        sentences.append(
            f"By {_name(near[0])}, the set is nearer to the real cases than other real cases are, as copies would "
            "be: read it with the audit."
        )
    return Verdict(_tone(differing, known), _headline(differing, known, "Not told apart from real scans"), sentences)


def agreement(pairs: Mapping[str, Any] | None) -> Verdict:
    """Answer whether image and labels of a pair agree, from the group alignment."""
    if pairs is None:
        return _unmeasured("whether image and labels agree was not measured")
    measures = [m for m in pairs["measures"] if m["group"] == "alignment"]
    differing, known = _counts(measures)
    if not known:
        return _unknown(measures)
    headline = _headline(differing, known, "They agree as in real scans, as far as measured")
    wanted = "worse" if differing else "better"  # the headline counts those that differ, or says that none does
    leads = [m for m in _summarising(measures) if reading(m).words != "not known" and reading(m).tone == wanted]
    sentences = [f"{protocol_name(_beside(lead))}." for lead in leads[:_LEADS_SHOWN]]
    return Verdict(_tone(differing, known), headline, sentences)


def tables(pairs: Mapping[str, Any] | None) -> list[Table]:
    """Return a table per group, in the order of ``GROUPS``; groups of other tools come last."""
    measures = [] if pairs is None else pairs["measures"]
    groups = dict.fromkeys([*GROUPS, *(m["group"] for m in measures)])
    found = []
    for group in groups:
        members = [m for m in measures if m["group"] == group]
        if not members:
            continue
        names = dict.fromkeys(m["name"] for m in members)
        rows = [_head([m for m in members if m["name"] == name]) for name in names]
        parts = [_row(m) for m in members if not _overall(m)]
        found.append(Table(protocol_name(group), GROUPS.get(group, ""), rows, parts))
    return found


def curve_drawings(curves: Mapping[str, Any] | None) -> list[tuple[str, charts.Drawing]]:
    """Return (title, drawing) of the distributions inside structures; structures without values are left out."""
    if curves is None:
        return []
    unit = curves.get("unit") or "intensity"
    found = []
    for key, title, draw, label in (
        ("histograms", "Grey values by structure", charts.histograms, unit),
        ("noise_power", "Noise power by structure", charts.spectra, f"noise power, {unit}² mm³"),
    ):
        panels = {name: panel for name, panel in curves[key].items() if panel and panel["real"] and panel["synthetic"]}
        if panels:
            words = f"{title}, real and synthetic, for {', '.join(panels)}; the table of texture has their distances."
            found.append((title, charts.drawing(draw(panels, label=label), words)))
    return found


def _unmeasured(what: str) -> Verdict:
    return Verdict("open", "Not measured", [f"In this run, {what} (pairs/pairs.json)."])


def _unknown(measures: Measures) -> Verdict:
    reasons = list(dict.fromkeys(m["note"] for m in measures if m["note"]))
    return Verdict("open", "Not known", reasons[:2] or ["No measure of it has a value in this run."])


def _headline(differing: int, known: int, alike: str) -> str:
    verb = "differs" if differing == 1 else "differ"
    return f"{differing} of {counted(known, 'measure')} {verb} from real scans" if differing else alike


def _tone(differing: int, known: int) -> Tone:
    return "better" if not differing else "worse" if 2 * differing >= known else "open"


def _counts(measures: Measures) -> tuple[int, int]:
    """Return how many measures differ from real, and how many are known at all."""
    readings = [reading(m) for m in _summarising(measures)]
    return sum(r.tone == "worse" for r in readings), sum(r.words != "not known" for r in readings)


def _overall(m: Mapping[str, Any]) -> bool:
    return m["structure"] is None and m["view"] is None


def _summarising(measures: Measures) -> list[Mapping[str, Any]]:
    """Return the overall measure of each name, and all parts of a name that has none: what counts, counts once."""
    names = {(m["group"], m["name"]) for m in measures if _overall(m)}
    return [m for m in measures if _overall(m) or (m["group"], m["name"]) not in names]


def _lead(measures: Measures, group: str) -> Mapping[str, Any] | None:
    known = [m for m in measures if m["group"] == group and reading(m).words != "not known"]
    return next(filter(_overall, known), known[0] if known else None)


def _beside(m: Mapping[str, Any]) -> str:
    unit = f" {m['unit']}" if m["unit"] else ""
    good = {"lower": "; lower is better", "higher": "; higher is better", "floor": ""}[m["better"]]
    return (
        f"{_name(m)} {significant(m['value'])}{unit} {_interval(m['low'], m['high'])} against "
        f"{significant(m['floor'])}{unit} {_interval(m['floor_low'], m['floor_high'])} among real scans{good}"
    )


def _name(m: Mapping[str, Any]) -> str:
    about = ", ".join(filter(None, (m["structure"], m["view"])))
    return TITLES.get(m["name"], m["name"].replace("_", " ")) + (f" ({about})" if about else "")


def _interval(low: float | None, high: float | None) -> str:
    return "(no interval)" if low is None or high is None else f"[{significant(low)}, {significant(high)}]"


def _row(m: Mapping[str, Any]) -> Row:
    unit = f", {m['unit']}" if m["unit"] else ""
    return Row(
        name=protocol_name(_name(m)) + unit,
        value=significant(m["value"]),
        interval=_ends(m["low"], m["high"]),
        floor=significant(m["floor"]),
        floor_interval=_ends(m["floor_low"], m["floor_high"]),
        better=_BETTER[m["better"]],
        reading=reading(m),
        cases=f"{m['synthetic_cases']} and {m['real_cases']}",
        note=m["note"],
    )


def _head(family: Measures) -> Row:
    """Return the overall measure of a name; where there is none, the range over its structures and views."""
    overall = next(filter(_overall, family), None)
    if overall is not None or len(family) == 1:
        return _row(overall or family[0])
    first = _row({**family[0], "structure": None, "view": None, "note": ""})
    differing, known = _counts(family)
    names = [m["structure"] or m["view"] for m in family if reading(m).tone == "worse"]
    words = f"{differing} of {known} differ" + (f": {', '.join(names)}" if names else "")
    value, floor = (_range([m[key] for m in family if m[key] is not None]) for key in ("value", "floor"))
    return Row(
        name=first.name,
        value=value,
        interval=f"over {len(family)} structures or views",
        floor=floor,
        floor_interval="",
        better=first.better,
        reading=Reading(_tone(differing, known) if known else "open", words if known else "not known"),
        cases=first.cases,
        note="",
    )


def _ends(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{significant(low)} to {significant(high)}"


def _range(values: Sequence[float]) -> str:
    return f"{significant(min(values))} to {significant(max(values))}" if values else "–"

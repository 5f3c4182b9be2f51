"""Writes ``report.html``: one self-contained page about a run, verdict first, that needs no network and no script.

Takes a run folder. Every file is optional; where one is absent the page says so in a sentence. This is the contract:

    summary.json                              title, about, command, preset, seed, versions {name: version},
                                              held_out (the split that was scored), synthetic (number of pairs),
                                              protocols {name: what it is trained on}, settings {...},
                                              cohort {cases, labelled, patients, splits {name: cases}, modality,
                                                      label_table {structure: [value, "#rrggbb"]},
                                                      sizes and spacings (text with units),
                                                      attributes {name: {value: cases}}, notes [text]}
    settings.yaml                             shown as it is; else the settings in summary.json
    timings.json                              {stage: seconds}, in order
    generator/autoencoder/metrics.jsonl       one record per line: update, loss, and score where it was validated
    generator/diffusion/metrics.jsonl
    generator/autoencoder/reconstruction.json dice {structure: Dice after encoding and decoding}, cases
    pretraining/metrics.jsonl
    segmenters/<protocol>/metrics.jsonl
    evaluation/<protocol>/masks.csv           as ``evaluation.agreement`` writes them; protocols baseline,
    evaluation/<protocol>/masks.json          medical_diffusion, ours come first, others follow by name
    evaluation/<protocol>/<seed>/masks.json   further seeds: counted here, used by the comparison
    evaluation/comparison.json                as ``evaluation.comparison`` writes it; the first comparison over all
                                              structures is the verdict
    previews/real.npz, previews/synthetic.npz names, spacing (N, 3) mm, <name>_image (X, Y, Z) float32 in [0, 1],
                                              <name>_labels uint8 class indices 0..K-1; RAS+ axes;
                                              intensity_range (2,) optional: the original units of 0 and 1
    previews/predictions.npz                  the same (labels: reference) and protocols, <name>_<protocol>

All text from these files is escaped. Volumes are shown in radiological display (see ``figures``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from voxpair.core.run import write_text
from voxpair.report import figures
from voxpair.report.results import Preview, Results, read_results
from voxpair.report.verdict import number, p_value, points, protocol_name, seeds_of, verdict

CT_WINDOW_HU = (-150.0, 550.0)  # soft tissue, widened so that contrast-filled blood (300 to 500 HU) keeps its detail
PROTOCOLS = {  # Ikuta et al. 2024 and Hu et al. 2024, section 3.4
    "baseline": "from random weights, on real scans alone",
    "medical_diffusion": "encoder pretrained on images alone, then real scans alone",
    "ours": "encoder pretrained on images alone, then real and synthetic pairs",
}
_VOLUMES_SHOWN = 4
_VALUES_SHOWN = 6
_POINTS_DRAWN = 250
_ENDS = ("difference", "low", "high")
_TEMPLATES = Path(__file__).parent / "templates"


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


@dataclass(frozen=True)
class Drawing:
    """A picture in ink for a light and for a dark page, as data URIs, with words for those who cannot see it."""

    light: str
    dark: str
    words: str


def write_report(run_folder: Path, *, ct_window_hu: tuple[float, float] = CT_WINDOW_HU) -> Path:
    """Write ``report.html`` into ``run_folder`` and return its path.

    Args:
        run_folder: laid out as this module says.
        ct_window_hu: HU shown as black and as white, for CT whose preview says what its 0 and 1 stand for.

    Raises:
        InputError: there is no such folder, or a file in it cannot be read.
    """
    results = read_results(run_folder)
    path = results.folder / "report.html"
    write_text(path, render(results, ct_window_hu))
    return path


def render(results: Results, ct_window_hu: tuple[float, float] = CT_WINDOW_HU) -> str:
    """Return the page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "points": points,
        "p_value": p_value,
        "seeds": seeds_of,
        "protocol": protocol_name,
        "duration": duration,
    }
    window = ct_window_hu if results.summary.get("cohort", {}).get("modality") == "CT" else None
    described = PROTOCOLS | results.summary.get("protocols", {})
    colours = [structure.colour for structure in results.structures]
    return environment.get_template("report.html").render(
        style=Markup((_TEMPLATES / "style.css").read_text(encoding="utf-8")),  # ours, holds no user's text
        summary=results.summary,
        cohort=cohort_facts(results.summary),
        descriptions={n: described[n] for n in results.evaluations if n in described},
        structures=results.structures,
        verdict=verdict(results.comparisons, results.evaluations),
        protocols=list(results.evaluations),
        tables=tables(results),
        evaluations=results.evaluations,
        comparisons=[c for c in results.comparisons if c["structure"] is None],
        dice_drawing=_dice_drawing(results),
        difference_drawing=_difference_drawing(results),
        sheets={n: _sheet(p, colours, window) for n, p in results.previews.items()},
        training=_training_drawings(results),
        reconstruction=results.reconstruction,
        timings=results.timings,
        settings=results.settings,
        window=window,
    )


def duration(seconds: float) -> str:
    """Return a duration in the two units that matter.

    >>> duration(0.4), duration(75), duration(5000), duration(90000)
    ('0.4 s', '1 min 15 s', '1 h 23 min', '25 h')
    """
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 24 else f"{hours} h"


def cohort_facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (term, description) pairs of what is known about the cohort, real and synthetic.

    >>> cohort_facts({"synthetic": 8, "cohort": {"cases": 5, "splits": {"train": 3, "test": 2}}})
    [('Cases', '5'), ('Split', '3 train · 2 test'), ('Synthetic', '8 pairs')]
    """
    cohort = summary.get("cohort", {})
    facts = [(term, cohort.get(term.lower())) for term in ("Cases", "Patients", "Labelled")]
    facts.append(("Split", _counts(cohort.get("splits"))))
    facts += [("Modality", cohort.get("modality")), ("Grid", cohort.get("sizes")), ("Voxel", cohort.get("spacings"))]
    for name, values in cohort.get("attributes", {}).items():
        facts.append(
            (protocol_name(name), _counts(values) if len(values) <= _VALUES_SHOWN else f"{len(values)} values")
        )
    if "synthetic" in summary:
        facts.append(("Synthetic", f"{summary['synthetic']} pairs"))
    return [(term, str(value)) for term, value in facts if value is not None]


def _counts(counts: Mapping[str, int] | None) -> str | None:
    return " · ".join(f"{count} {name or 'unnamed'}" for name, count in counts.items()) if counts else None


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


def _sheet(preview: Preview, colours: Sequence[str], window_hu: tuple[float, float] | None) -> dict[str, Any]:
    """Draw a preview: three views per volume, or the axial view per protocol."""
    names = list(preview.images)[:_VOLUMES_SHOWN]
    highest = max((int(preview.labels[name].max()) for name in names), default=0)
    colours = [*colours, *("#ffffff" for _ in range(highest - len(colours)))]
    columns = ["Reference", *map(protocol_name, preview.predictions)] if preview.predictions else list(figures.VIEWS)
    rows = []
    for name in names:
        image, labels = displayed(preview.images[name], preview.intensity_range, window_hu), preview.labels[name]
        centre = figures.centre_voxel(labels)
        if preview.predictions:
            masks = [labels, *(by_name[name] for by_name in preview.predictions.values())]
            rows.append([figures.tile_of(image, mask, preview.spacing_mm[name], "axial", centre) for mask in masks])
        else:
            rows.append([figures.tile_of(image, labels, preview.spacing_mm[name], v, centre) for v in figures.VIEWS])
    layers = figures.tile_sheet(rows, names, columns, colours)
    return {
        "images": figures.data_uri(layers.images, "image/png"),
        "labels": figures.data_uri(layers.labels, "image/png"),
        "names": names,
        "columns": columns,
        "total": len(preview.images),
    }


def displayed(
    image: np.ndarray, intensity_range: tuple[float, float] | None, window: tuple[float, float] | None
) -> np.ndarray:
    """Return ``image`` in [0, 1] as grey values in [0, 1], through ``window`` where both units are known.

    >>> displayed(np.array([0.0, 0.5, 1.0]), (-1000, 1000), (-100, 100)).tolist()
    [0.0, 0.5, 1.0]
    """
    if intensity_range is None or window is None:
        return np.clip(image, 0, 1)
    low, high = intensity_range
    return np.clip((image * (high - low) + low - window[0]) / (window[1] - window[0]), 0, 1)


def _drawing(svg: bytes, words: str) -> Drawing:
    light, dark = (figures.data_uri(figures.in_theme(svg, t), "image/svg+xml") for t in (figures.LIGHT, figures.DARK))
    return Drawing(light, dark, words)


def _dice_drawing(results: Results) -> Drawing | None:
    scores = {name: evaluation.dice for name, evaluation in results.evaluations.items() if evaluation.dice}
    if not scores:
        return None
    words = f"Dice of every case by structure, for {', '.join(map(protocol_name, scores))}; the means are in the table."
    return _drawing(figures.dice_plot(scores), words)


def _difference_drawing(results: Results) -> Drawing | None:
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
    label = f"{a} minus {b}, Dice points (95 % interval over patients)"
    return _drawing(figures.difference_plot(rows, label=label), words)


def _training_drawings(results: Results) -> list[tuple[str, Sequence[Drawing]]]:
    """Return (title, drawings): loss of every fit, and its score where it has one."""
    groups = {title: {title: log} for title, log in results.curves.items()}
    if results.segmenter_curves:
        groups["Segmentation"] = results.segmenter_curves
    found = []
    for title, logs in groups.items():
        drawings = []
        for key in ("loss", "score"):
            series = {name: values for name, log in logs.items() if (values := series_of(log, key))}
            if series:
                drawings.append(_curve_drawing(series, title, key))
        if drawings:
            found.append((title, drawings))
    return found


def _curve_drawing(series: Mapping[str, Sequence[tuple[float, float]]], title: str, key: str) -> Drawing:
    last = "; ".join(f"{protocol_name(name)} ends at {values[-1][1]:.4g}" for name, values in series.items())
    svg = figures.curves(series, label=key, log=key == "loss")
    return _drawing(svg, f"{title}, {key} by update: {last}.")


def series_of(log: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """Return (update, value) where ``key`` was logged and is finite; long logs are averaged in equal stretches.

    >>> series_of([{"update": 1, "loss": 2.0}, {"update": 2, "score": 0.5}, {"update": 3, "loss": 1.0}], "loss")
    [(1.0, 2.0), (3.0, 1.0)]
    """
    found = [
        (float(record["update"]), float(record[key]))
        for record in log
        if "update" in record and isinstance(record.get(key), int | float) and math.isfinite(record[key])
    ]
    if len(found) <= _POINTS_DRAWN:
        return found
    return [tuple(stretch.mean(axis=0).tolist()) for stretch in np.array_split(np.array(found), _POINTS_DRAWN)]

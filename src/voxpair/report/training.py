"""Training curves on the page: the loss of every fit, and its score where it has one.

Takes the logs of a run, gives drawings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from voxpair.report import charts
from voxpair.report.results import Results
from voxpair.report.words import protocol_name

_POINTS_DRAWN = 250


def training_drawings(results: Results) -> list[tuple[str, Sequence[charts.Drawing]]]:
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


def _curve_drawing(series: Mapping[str, Sequence[tuple[float, float]]], title: str, key: str) -> charts.Drawing:
    last = "; ".join(f"{protocol_name(name)} ends at {values[-1][1]:.4g}" for name, values in series.items())
    svg = charts.curves(series, label=key, log=key == "loss")
    return charts.drawing(svg, f"{title}, {key} by update: {last}.")


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

"""Sheets of slices, a row per case: what the page shows of every preview.

Takes volumes of a preview, gives two pictures of one size (grey values, labels) as data URIs, and their titles.

    preview                    columns
    real, synthetic, rejected  three views with the labels
    predictions                one view: the reference, then every protocol
    copies                     two views: the synthetic case, and beside each the most similar real image
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from voxpair.report import figures
from voxpair.report.charts import data_uri
from voxpair.report.results import Preview
from voxpair.report.words import protocol_name

SHOWN = 4
COPIES_SHOWN = 8
RANKS = ("worst", "median", "best")  # the order in which a run writes its three predictions
_COPY_VIEWS = ("axial", "coronal")


@dataclass(frozen=True)
class Sheet:
    """Two PNG pictures of one size as data URIs, the titles in them, and how many cases the preview holds."""

    images: str
    labels: str
    titles: Sequence[str]
    columns: Sequence[str]
    total: int


def sheet(preview: Preview, colours: Sequence[str], window: tuple[float, float] | None) -> Sheet:
    """Draw a preview of cases or of predictions; ``colours`` are those of class 1, 2, ..."""
    names = list(preview.images)[:SHOWN]
    ranked = bool(preview.predictions) and len(preview.images) == len(RANKS)
    titles = [f"{rank}: {name}" for rank, name in zip(RANKS, names)] if ranked else names
    columns = ["Reference", *map(protocol_name, preview.predictions)] if preview.predictions else list(figures.VIEWS)
    rows = []
    for name in names:
        image, labels = displayed(preview.images[name], preview.intensity_range, window), preview.labels[name]
        masks = [labels, *(by_name[name] for by_name in preview.predictions.values())]
        cuts = [("axial", mask) for mask in masks] if preview.predictions else [(v, labels) for v in figures.VIEWS]
        centre, spacing_mm = figures.centre_voxel(labels), preview.spacing_mm[name]
        rows.append([figures.tile_of(image, mask, spacing_mm, view, centre) for view, mask in cuts])
    return _drawn(preview, rows, titles, columns, colours)


def copy_sheet(
    copies: Preview, titles: Mapping[str, str], colours: Sequence[str], window: tuple[float, float] | None
) -> Sheet:
    """Draw each synthetic case beside its nearest real image; ``titles`` say what the audit found, by case."""
    names = list(copies.images)[:COPIES_SHOWN]
    rows = []
    for name in names:
        synthetic, nearest = (
            displayed(volume, copies.intensity_range, window) for volume in (copies.images[name], copies.nearest[name])
        )
        centre, spacing_mm = figures.centre_voxel(copies.labels[name]), copies.spacing_mm[name]
        rows.append(
            [
                figures.tile_of(image, labels, spacing_mm, view, centre)
                for view in _COPY_VIEWS
                for image, labels in ((synthetic, copies.labels[name]), (nearest, None))
            ]
        )
    columns = [f"{kind}, {view}" for view in _COPY_VIEWS for kind in ("synthetic", "nearest real")]
    return _drawn(copies, rows, [titles.get(name, name) for name in names], columns, colours)


def _drawn(
    preview: Preview,
    rows: Sequence[Sequence[figures.Tile]],
    titles: Sequence[str],
    columns: Sequence[str],
    colours: Sequence[str],
) -> Sheet:
    highest = max((int(labels.max()) for labels in preview.labels.values()), default=0)
    colours = [*colours, *("#ffffff" for _ in range(highest - len(colours)))]
    layers = figures.tile_sheet(rows, titles, columns, colours)
    images, labels = (data_uri(picture, "image/png") for picture in (layers.images, layers.labels))
    return Sheet(images, labels, titles, columns, len(preview.images))


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

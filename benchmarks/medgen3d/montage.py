"""A picture of a row of table E1: two real cases above four made ones, three views without and with their labels.

Takes a real cohort and a made one, or the slices of three views; writes a PNG. Grey values of CT are a window from
-1000 to 1000 HU, of MRI the robust range of each volume.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from voxpair.cohorts.cohort import Cohort
from voxpair.cohorts.preprocess import Preprocessor, PreprocessSettings
from voxpair.core.case import Case
from voxpair.core.run import atomic_path
from voxpair.report.figures import VIEWS, Tile, centre_voxel, tile_of, tile_sheet

WINDOW_HU = (-1000.0, 1000.0)
REAL, MADE = 2, 4


def write_montage(path: Path, real: Cohort, made: Cohort | Sequence[Mapping[str, np.ndarray]]) -> None:
    """Draw the rows; slices are cut from nowhere, so a row of them shows one of each view."""
    rows = [_tiles(real.read(name), real.modality) for name in real.names[:REAL]]
    titles = list(real.names[:REAL])
    if isinstance(made, Cohort):
        rows += [_tiles(made.read(name), made.modality) for name in made.names[:MADE]]
        titles += made.names[:MADE]
    else:
        first = real.read(real.names[0])
        rows += [_tiles_of_slices(slices, first, real.modality) for slices in made[:MADE]]
        titles += [f"slices {index}" for index in range(len(made[:MADE]))]
    columns = [f"{view}{word}" for word in ("", ", labels") for view in VIEWS]
    layers = tile_sheet(rows, titles, columns, [one.colour for one in real.label_table.structures])
    images, labels = (Image.open(io.BytesIO(layer)).convert("RGBA") for layer in (layers.images, layers.labels))
    with atomic_path(path) as temporary:
        Image.alpha_composite(images, labels).convert("RGB").save(temporary)


def _tiles(case: Case, modality: str) -> list[Tile]:
    settings = PreprocessSettings(grid=case.image.shape, window_hu=WINDOW_HU)
    shown = Preprocessor(settings, case.label_table, modality).forward(case)
    centre = tuple(length // 2 for length in shown.image.shape) if shown.labels is None else centre_voxel(shown.labels)
    spacing_mm = shown.geometry.spacing_mm
    return [tile_of(shown.image, labels, spacing_mm, view, centre) for labels in (None, shown.labels) for view in VIEWS]


def _tiles_of_slices(slices: Mapping[str, np.ndarray], like: Case, modality: str) -> list[Tile]:
    size_mm = np.multiply(like.image.shape, like.spacing_mm)
    brighter = 1.5 if modality == "CT" else 1.0  # the networks see a window from -1000 to 2000 HU
    found = []
    for view in VIEWS:
        width, height = np.delete(size_mm, {"sagittal": 0, "coronal": 1, "axial": 2}[view]).tolist()
        shown = np.clip(slices[view][0] * brighter, 0, 1)[::-1, ::-1].T
        found.append(Tile(shown, None, (width, height), view))
    return found * 2

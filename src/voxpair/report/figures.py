"""Pictures of volumes with their labels, as a radiologist would see them.

Takes arrays, gives PNG as bytes. Matplotlib's object interface only, as in ``charts``.

Volumes are RAS+: x grows to the patient's right, y to the front, z to the head. They are shown as radiologists do,
the patient's right on the left of the picture:

    view       left edge    top edge     seen from
    axial      right  (R)   front (A)    the feet
    coronal    right  (R)   head  (S)    the front
    sagittal   front  (A)   head  (S)    the patient's left

Image and labels are drawn as two pictures of one size, so that a page can lay one over the other and take it away.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from PIL import Image

from voxpair.report.charts import printable

VIEWS = ("axial", "coronal", "sagittal")
_EDGES = {"axial": ("R", "A"), "coronal": ("R", "S"), "sagittal": ("A", "S")}  # left, top
_TILE_INCH, _STRIP_INCH, _GAP_INCH, _DPI = 2.0, 0.26, 0.02, 150
_OUTLINE = (withStroke(linewidth=1.1, foreground="black"),)  # letters are read on black and on white tissue
_FILL = 0.28  # opacity of the label fill: the image must stay readable below it


@dataclass(frozen=True)
class Layers:
    """Two PNG pictures of one size: the images on black, and the labels on nothing."""

    images: bytes
    labels: bytes


@dataclass(frozen=True)
class Tile:
    """One slice, as displayed: rows from top to bottom.

    Args:
        image: shape (rows, columns), 0 black to 1 white.
        classes: same shape, 0 background; None where there is nothing to lay over.
        size_mm: width and height.
        view: one of ``VIEWS``.
    """

    image: np.ndarray
    classes: np.ndarray | None
    size_mm: tuple[float, float]
    view: str


def slice_of(volume: np.ndarray, view: str, index: int) -> np.ndarray:
    """Return slice ``index`` of a RAS+ volume (X, Y, Z) as displayed, shape (rows, columns).

    >>> volume = np.zeros((2, 3, 4)); volume[1, 2, 3] = 1  # the voxel furthest right, front and up
    >>> [slice_of(volume, view, i)[0, 0] for view, i in (("axial", 3), ("coronal", 2), ("sagittal", 1))]
    [np.float64(1.0), np.float64(1.0), np.float64(1.0)]
    """
    axis = {"sagittal": 0, "coronal": 1, "axial": 2}[view]
    return np.take(volume, index, axis=axis)[::-1, ::-1].T


def centre_voxel(labels: np.ndarray) -> tuple[int, int, int]:
    """Return the voxel nearest to the centre of mass of everything labelled; the middle where nothing is."""
    inside = np.argwhere(labels > 0)
    centre = inside.mean(axis=0) if len(inside) else (np.array(labels.shape) - 1) / 2
    x, y, z = np.rint(centre).astype(int).tolist()
    return x, y, z


def tile_of(
    image: np.ndarray, classes: np.ndarray | None, spacing_mm: Sequence[float], view: str, centre: Sequence[int]
) -> Tile:
    """Cut ``view`` through voxel ``centre`` out of a volume of shape (X, Y, Z)."""
    axis = {"sagittal": 0, "coronal": 1, "axial": 2}[view]
    width, height = np.delete(np.multiply(image.shape, spacing_mm), axis).tolist()
    over = None if classes is None else slice_of(classes, view, centre[axis])
    return Tile(slice_of(image, view, centre[axis]), over, (width, height), view)


def tile_sheet(
    rows: Sequence[Sequence[Tile]], row_titles: Sequence[str], column_titles: Sequence[str], colours: Sequence[str]
) -> Layers:
    """Draw rows of tiles of equal height and width on black; slices keep their proportions in millimetres.

    Args:
        rows: every row as long as ``column_titles``.
        colours: ``#rrggbb`` of class 1, 2, ...
    """
    sheet = (rows, row_titles, column_titles)
    return Layers(
        images=_png(_draw_sheet(*sheet, colours=None), grey=True),
        labels=_png(_draw_sheet(*sheet, colours=colours), grey=False),
    )


def _draw_sheet(
    rows: Sequence[Sequence[Tile]],
    row_titles: Sequence[str],
    column_titles: Sequence[str],
    colours: Sequence[str] | None,
) -> Figure:
    """Draw the images and all words (``colours`` None), or nothing but the labels."""
    width = len(column_titles) * _TILE_INCH
    height = _STRIP_INCH + len(rows) * (_TILE_INCH + _STRIP_INCH)
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="black" if colours is None else "none")
    for r, row in enumerate(rows):
        bottom = height - _STRIP_INCH - (r + 1) * (_TILE_INCH + _STRIP_INCH)
        for c, tile in enumerate(row):
            left, size = c * _TILE_INCH + _GAP_INCH, _TILE_INCH - 2 * _GAP_INCH
            box = (left / width, (bottom + _GAP_INCH) / height, size / width, size / height)
            axes = figure.add_axes(box)
            axes.set_axis_off()
            extent = (0, tile.size_mm[0], 0, tile.size_mm[1])
            if colours is None:
                axes.imshow(tile.image, cmap="gray", vmin=0, vmax=1, extent=extent, interpolation="bilinear")
                left_edge, top_edge = _EDGES[tile.view]
                letter = {"color": "white", "fontsize": 6.5, "transform": axes.transAxes, "path_effects": _OUTLINE}
                axes.text(0.02, 0.5, left_edge, va="center", **letter)
                axes.text(0.5, 0.98, top_edge, ha="center", va="top", **letter)
            else:
                _draw_labels(axes, tile, colours, extent)
            axes.set(xlim=extent[:2], ylim=extent[2:], aspect="equal")
        if colours is None:
            y = (bottom + _TILE_INCH + 0.3 * _STRIP_INCH) / height
            figure.text(0.06 / width, y, printable(row_titles[r]), color="#d5dae0", fontsize=7.5)
    if colours is None:
        for c, title in enumerate(column_titles):
            x, y = (c + 0.5) * _TILE_INCH / width, 1 - 0.5 * _STRIP_INCH / height
            figure.text(x, y, printable(title), color="white", fontsize=8.5, ha="center", va="center")
    return figure


def _draw_labels(axes, tile: Tile, colours: Sequence[str], extent: tuple[float, float, float, float]) -> None:
    if tile.classes is None:
        return
    palette = np.array([(0, 0, 0, 0), *(mpl.colors.to_rgba(colour, _FILL) for colour in colours)])
    axes.imshow(palette[tile.classes], extent=extent, interpolation="nearest")
    for index, colour in enumerate(colours, 1):
        mask = np.pad(tile.classes == index, 1)  # a contour closes only inside the array
        if mask.any():
            step_x, step_y = tile.size_mm[0] / tile.classes.shape[1], tile.size_mm[1] / tile.classes.shape[0]
            x = (np.arange(mask.shape[1]) - 0.5) * step_x
            y = tile.size_mm[1] - (np.arange(mask.shape[0]) - 0.5) * step_y
            axes.contour(x, y, mask, levels=[0.5], colors=[colour], linewidths=0.9)


def _png(figure: Figure, *, grey: bool) -> bytes:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba()))
    # A label sheet has few colours and much nothing: a palette makes it ten times smaller.
    picture = picture.convert("L") if grey else picture.quantize(128, method=Image.Quantize.FASTOCTREE)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()

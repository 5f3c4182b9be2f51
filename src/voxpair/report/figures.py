"""Pictures of a report: volumes with their labels, loss curves, Dice per structure, differences.

Takes arrays and numbers, gives PNG (volumes) or SVG (curves) as bytes. Matplotlib's object interface only: nothing
here touches pyplot's global state, so it may run in any thread.

Volumes are RAS+: x grows to the patient's right, y to the front, z to the head. They are shown as radiologists do,
the patient's right on the left of the picture:

    view       left edge    top edge     seen from
    axial      right  (R)   front (A)    the feet
    coronal    right  (R)   head  (S)    the front
    sagittal   front  (A)   head  (S)    the patient's left

Image and labels are drawn as two pictures of one size, so that a page can lay one over the other and take it away.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from PIL import Image

VIEWS = ("axial", "coronal", "sagittal")
_EDGES = {"axial": ("R", "A"), "coronal": ("R", "S"), "sagittal": ("A", "S")}  # left, top
_TILE_INCH, _STRIP_INCH, _GAP_INCH, _DPI = 2.0, 0.26, 0.02, 150
_OUTLINE = (withStroke(linewidth=1.1, foreground="black"),)  # letters are read on black and on white tissue
_FILL = 0.28  # opacity of the label fill: the image must stay readable below it
PROTOCOL_COLOURS = {"baseline": "#8b929c", "medical_diffusion": "#d9892b", "ours": "#3b82d6"}
_OTHER_COLOURS = ("#2a9d77", "#a45bb8", "#c8553d")


@dataclass(frozen=True)
class Theme:
    """Ink of a drawing whose background is the page's."""

    text: str
    grid: str


LIGHT = Theme(text="#3d4450", grid="#dfe3e8")
DARK = Theme(text="#b9c0ca", grid="#333a44")


def in_theme(svg: bytes, theme: Theme) -> bytes:
    """Return a drawing made for ``LIGHT`` in another ink; nothing else in a drawing has these two colours."""
    for old, new in ((LIGHT.text, theme.text), (LIGHT.grid, theme.grid)):
        svg = svg.replace(old.encode(), new.encode())
    return svg


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
            figure.text(0.06 / width, y, _printable(row_titles[r]), color="#d5dae0", fontsize=7.5)
    if colours is None:
        for c, title in enumerate(column_titles):
            x, y = (c + 0.5) * _TILE_INCH / width, 1 - 0.5 * _STRIP_INCH / height
            figure.text(x, y, _printable(title), color="white", fontsize=8.5, ha="center", va="center")
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


def curves(series: Mapping[str, Sequence[tuple[float, float]]], *, label: str, log: bool) -> bytes:
    """Draw values over updates, one line per name.

    Args:
        series: name to (update, value) pairs; values that are not finite are left out.
        log: a logarithmic value axis, where all values are positive and span more than a factor of ten.
    """
    figure = Figure(figsize=(5.2, 2.7))
    axes = figure.add_axes((0.13, 0.17, 0.85, 0.79))
    everything = []
    for i, (name, points) in enumerate(series.items()):
        updates, values = np.array([p for p in points if np.isfinite(p[1])], float).reshape(-1, 2).T
        marker = "o" if len(updates) < 12 else None
        axes.plot(
            updates, values, color=_colour(name, i), linewidth=1.4, marker=marker, ms=3, label=_printable(_words(name))
        )
        everything += values.tolist()
    if log and everything and 0 < 10 * min(everything) < max(everything):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_xlabel("update")
    axes.set_ylabel(_printable(label))
    if len(series) > 1:
        _legend(axes)
    _style(axes)
    return _svg(figure)


def dice_plot(scores: Mapping[str, Mapping[str, Sequence[float]]]) -> bytes:
    """Draw every case's Dice as a dot, and each mean as a bar, by structure and protocol.

    Args:
        scores: protocol to structure to the Dice of each case in which it is defined.
    """
    protocols = list(scores)
    structures = list(dict.fromkeys(name for by_structure in scores.values() for name in by_structure))
    figure = Figure(figsize=(10.4, 3.4), layout="constrained")
    axes = figure.add_subplot()
    step = 0.8 / len(protocols)
    for p, protocol in enumerate(protocols):
        colour = _colour(protocol, p)
        for s, structure in enumerate(structures):
            values = np.asarray(scores[protocol].get(structure, ()), float)
            if not len(values):
                continue
            middle = s + (p - (len(protocols) - 1) / 2) * step
            spread = step * 0.32 * np.linspace(-1, 1, len(values)) if len(values) > 1 else np.zeros(1)
            # Neighbouring cases get far-apart places, the same in every run: no random jitter.
            places = middle + spread[np.argsort((np.arange(len(values)) * 0.618034) % 1)]
            axes.scatter(places, values, s=9, color=colour, alpha=0.45, linewidths=0, rasterized=len(values) > 100)
            axes.hlines(values.mean(), middle - step * 0.4, middle + step * 0.4, color=colour, linewidth=2.4)
        axes.plot([], [], "o", color=colour, ms=5, label=_printable(_words(protocol)))
    axes.set_xticks(range(len(structures)), [_printable(name) for name in structures])
    axes.set(ylabel="Dice", xlim=(-0.5, len(structures) - 0.5))
    axes.set_ylim(top=1.01)
    _style(axes)
    axes.grid(False, axis="x")
    _legend(axes, ncols=len(protocols), loc="lower left", bbox_to_anchor=(0, 1.0))
    return _svg(figure)


def difference_plot(differences: Sequence[tuple[str, float, float | None, float | None]], *, label: str) -> bytes:
    """Draw paired differences with their intervals, the first one (all structures) emphasised.

    Args:
        differences: (name, difference, low, high) in Dice points.
        label: what a positive difference means.
    """
    figure = Figure(figsize=(10.4, 0.8 + 0.27 * len(differences)), layout="constrained")
    axes = figure.add_subplot()
    colour = PROTOCOL_COLOURS["ours"]
    for row, (_, difference, low, high) in enumerate(differences):
        first = row == 0
        if low is not None and high is not None:
            axes.hlines(row, low, high, color=colour, linewidth=3 if first else 1.6, alpha=1 if first else 0.75)
        axes.plot(difference, row, "D" if first else "o", color=colour, ms=7 if first else 5)
    axes.axvline(0, color=LIGHT.text, linewidth=1)
    axes.set_yticks(range(len(differences)), [_printable(name) for name, *_ in differences])
    axes.get_yticklabels()[0].set_fontweight("bold")
    axes.set_ylim(len(differences) - 0.4, -0.6)
    axes.set_xlabel(_printable(label))
    _style(axes)
    axes.grid(False, axis="y")
    return _svg(figure)


def data_uri(content: bytes, mime: str) -> str:
    """Return ``content`` as a URI that a page can hold in itself.

    >>> data_uri(b"hi", "text/plain")
    'data:text/plain;base64,aGk='
    """
    return f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"


def _colour(name: str, index: int) -> str:
    return PROTOCOL_COLOURS.get(name) or (PROTOCOL_COLOURS["ours"], *_OTHER_COLOURS)[index % 4]


def _words(name: str) -> str:
    return name.replace("_", " ")


def _printable(text: str) -> str:
    """Keep matplotlib from reading a name with dollar signs as mathematics."""
    return str(text).replace("$", r"\$")


def _legend(axes, **options) -> None:
    axes.legend(frameon=False, labelcolor=LIGHT.text, fontsize=8.5, **options)


def _style(axes) -> None:
    axes.set_facecolor("none")
    axes.tick_params(which="both", colors=LIGHT.text, labelsize=8.5, length=0)
    axes.xaxis.label.set(color=LIGHT.text, fontsize=8.5)
    axes.yaxis.label.set(color=LIGHT.text, fontsize=8.5)
    axes.grid(True, color=LIGHT.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(LIGHT.grid)


def _svg(figure: Figure) -> bytes:
    figure.patch.set_alpha(0)
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "voxpair"}):  # the same numbers give the same bytes
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _png(figure: Figure, *, grey: bool) -> bytes:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba()))
    # A label sheet has few colours and much nothing: a palette makes it ten times smaller.
    picture = picture.convert("L") if grey else picture.quantize(128, method=Image.Quantize.FASTOCTREE)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()

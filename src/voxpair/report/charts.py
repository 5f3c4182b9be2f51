"""Plots of a report: curves, Dice per structure, differences, distributions of real and synthetic beside each other.

Takes numbers, gives SVG as bytes in the ink of ``LIGHT``; ``drawing`` makes a picture for light and dark pages of it.
Matplotlib's object interface only: nothing here touches pyplot's global state, so it may run in any thread.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

PROTOCOL_COLOURS = {
    "baseline": "#8b929c",
    "baseline_equal_updates": "#4d535c",
    "medical_diffusion": "#d9892b",
    "ours": "#3b82d6",
    "ours_real_last": "#1d4f91",
}
REAL_COLOUR, SYNTHETIC_COLOUR = "#8b929c", "#3b82d6"
_OTHER_COLOURS = ("#3b82d6", "#2a9d77", "#a45bb8", "#c8553d", "#b59b1f", "#d16ba5", "#5b7083")
_PANELS_PER_ROW = 4
_BINS = 24


@dataclass(frozen=True)
class Theme:
    """Ink of a drawing whose background is the page's."""

    text: str
    grid: str


LIGHT = Theme(text="#3d4450", grid="#dfe3e8")
DARK = Theme(text="#b9c0ca", grid="#333a44")


@dataclass(frozen=True)
class Drawing:
    """A picture in ink for a light and for a dark page, as data URIs, with words for those who cannot see it."""

    light: str
    dark: str
    words: str


def drawing(svg: bytes, words: str) -> Drawing:
    light, dark = (data_uri(in_theme(svg, theme), "image/svg+xml") for theme in (LIGHT, DARK))
    return Drawing(light, dark, words)


def in_theme(svg: bytes, theme: Theme) -> bytes:
    """Return a drawing made for ``LIGHT`` in another ink; nothing else in a drawing has these two colours."""
    for old, new in ((LIGHT.text, theme.text), (LIGHT.grid, theme.grid)):
        svg = svg.replace(old.encode(), new.encode())
    return svg


def data_uri(content: bytes, mime: str) -> str:
    """Return ``content`` as a URI that a page can hold in itself.

    >>> data_uri(b"hi", "text/plain")
    'data:text/plain;base64,aGk='
    """
    return f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"


def curves(
    series: Mapping[str, Sequence[tuple[float, float]]], *, label: str, log: bool, over: str = "update"
) -> bytes:
    """Draw values over updates, or over what ``over`` says, one line per name.

    Args:
        series: name to (place, value) pairs; values that are not finite are left out.
        log: a logarithmic value axis, where all values are positive and span more than a factor of ten.
    """
    figure = Figure(figsize=(5.2, 2.7))
    axes = figure.add_axes((0.13, 0.17, 0.85, 0.79))
    everything = []
    for i, (name, points) in enumerate(series.items()):
        updates, values = np.array([p for p in points if np.isfinite(p[1])], float).reshape(-1, 2).T
        marker = "o" if len(updates) < 12 else None
        axes.plot(
            updates, values, color=_colour(name, i), linewidth=1.4, marker=marker, ms=3, label=printable(_words(name))
        )
        everything += values.tolist()
    if log and everything and 0 < 10 * min(everything) < max(everything):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_xlabel(over)
    axes.set_ylabel(printable(label))
    if len(series) > 1:
        _legend(axes)
    _style(axes)
    return _svg(figure)


def dice_plot(scores: Mapping[str, Mapping[str, Sequence[float]]]) -> bytes:
    """Draw every patient's Dice as a dot, and each mean as a bar, by structure and protocol.

    Args:
        scores: protocol to structure to the Dice of each patient who has it.
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
            # Neighbouring dots get far-apart places, the same in every run: no random jitter.
            places = middle + spread[np.argsort((np.arange(len(values)) * 0.618034) % 1)]
            axes.scatter(places, values, s=9, color=colour, alpha=0.45, linewidths=0, rasterized=len(values) > 100)
            axes.hlines(values.mean(), middle - step * 0.4, middle + step * 0.4, color=colour, linewidth=2.4)
        axes.plot([], [], "o", color=colour, ms=5, label=printable(_words(protocol)))
    axes.set_xticks(range(len(structures)), [printable(name) for name in structures])
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
    axes.set_yticks(range(len(differences)), [printable(name) for name, *_ in differences])
    axes.get_yticklabels()[0].set_fontweight("bold")
    axes.set_ylim(len(differences) - 0.4, -0.6)
    axes.set_xlabel(printable(label))
    _style(axes)
    axes.grid(False, axis="y")
    return _svg(figure)


def histograms(panels: Mapping[str, Mapping[str, Sequence[float]]], *, label: str) -> bytes:
    """Draw a panel per structure: how values are distributed in real and in synthetic cases, each with area 1.

    Args:
        panels: structure to ``edges`` (n + 1), ``real`` and ``synthetic`` (n counts or densities each).
    """
    figure, grid = _panels(panels, label)
    for axes, panel in zip(grid, panels.values(), strict=True):
        edges = np.asarray(panel["edges"], float)
        real, synthetic = (_area_one(np.asarray(panel[side], float), edges) for side in ("real", "synthetic"))
        axes.stairs(real, edges, fill=True, color=REAL_COLOUR, alpha=0.45, label="real")
        axes.stairs(synthetic, edges, color=SYNTHETIC_COLOUR, linewidth=1.5, label="synthetic")
        axes.yaxis.set_major_locator(NullLocator())
        axes.xaxis.set_major_locator(MaxNLocator(4))
    _panel_legend(figure, grid)
    return _svg(figure)


def spectra(panels: Mapping[str, Mapping[str, Sequence[float]]], *, label: str) -> bytes:
    """Draw a panel per structure: noise power over spatial frequency, of real and of synthetic cases.

    Args:
        panels: structure to ``frequency_per_mm``, ``real`` and ``synthetic``, of one length.
    """
    figure, grid = _panels(panels, "spatial frequency, per mm", label)
    for axes, panel in zip(grid, panels.values(), strict=True):
        for side, colour, width in (("real", REAL_COLOUR, 2.4), ("synthetic", SYNTHETIC_COLOUR, 1.5)):
            power = np.asarray(panel[side], float)
            axes.plot(panel["frequency_per_mm"], power, color=colour, linewidth=width, label=side)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(numticks=4))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlim(left=0)
    _panel_legend(figure, grid)
    return _svg(figure)


def similarities(detectors: Mapping[str, tuple[Sequence[float], Sequence[float], float | None]]) -> bytes:
    """Draw a panel per detector: how alike each case is to its nearest training case, and where suspicion begins.

    Args:
        detectors: name to (of held-out real cases, of synthetic cases, threshold).
    """
    figure, grid = _panels(detectors, "similarity to the nearest training case", columns=3)
    for axes, (real, synthetic, threshold) in zip(grid, detectors.values(), strict=True):
        values = [*real, *synthetic, *([] if threshold is None else [threshold])]
        edges = np.linspace(min(values), max(max(values), min(values) + 1e-6), _BINS + 1)
        shares = [_area_one(np.histogram(side, edges)[0].astype(float), edges) for side in (real, synthetic)]
        axes.stairs(shares[0], edges, fill=True, color=REAL_COLOUR, alpha=0.45, label="held-out real")
        axes.stairs(shares[1], edges, color=SYNTHETIC_COLOUR, linewidth=1.5, label="synthetic")
        if threshold is not None:
            axes.axvline(threshold, color=LIGHT.text, linewidth=1.2, linestyle=(0, (4, 2)), label="threshold")
        axes.yaxis.set_major_locator(NullLocator())
        axes.xaxis.set_major_locator(MaxNLocator(5))
    _panel_legend(figure, grid)
    return _svg(figure)


def _area_one(heights: np.ndarray, edges: np.ndarray) -> np.ndarray:
    area = (heights * np.diff(edges)).sum()
    return heights / area if area > 0 else heights


def _panels(
    titles: Sequence[str] | Mapping[str, object], x_label: str, y_label: str = "", *, columns: int = _PANELS_PER_ROW
) -> tuple[Figure, list[Axes]]:
    """Return a figure of small multiples, one axes per title, styled and ready to be drawn into."""
    columns = min(columns, len(titles))
    rows = -(-len(titles) // columns)
    figure = Figure(figsize=(2.6 * columns if columns > 1 else 4.2, 0.75 + 1.75 * rows), layout="constrained")
    grid = [figure.add_subplot(rows, columns, i + 1) for i in range(len(titles))]
    for axes, title in zip(grid, titles, strict=True):
        axes.set_title(printable(_words(title)), fontsize=8.5, color=LIGHT.text, loc="left")
        _style(axes)
    figure.supxlabel(printable(x_label), fontsize=8.5, color=LIGHT.text)
    if y_label:
        figure.supylabel(printable(y_label), fontsize=8.5, color=LIGHT.text)
    return figure, grid


def _panel_legend(figure: Figure, grid: Sequence[Axes]) -> None:
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper left", ncols=3, frameon=False, fontsize=8.5, labelcolor=LIGHT.text
    )


def _colour(name: str, index: int) -> str:
    return PROTOCOL_COLOURS.get(name) or _OTHER_COLOURS[index % len(_OTHER_COLOURS)]


def _words(name: str) -> str:
    return name.replace("_", " ")


def printable(text: str) -> str:
    """Keep matplotlib from reading a name with dollar signs as mathematics."""
    return str(text).replace("$", r"\$")


def _legend(axes: Axes, **options) -> None:
    axes.legend(frameon=False, labelcolor=LIGHT.text, fontsize=8.5, **options)


def _style(axes: Axes) -> None:
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

"""Plots say what the numbers say, in ink that a theme reaches."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from voxpair.report import charts


def words_of(svg):
    root = ElementTree.fromstring(svg)
    comments = svg.decode().split("<!--")[1:]  # matplotlib draws text as paths and keeps the words beside them
    return root, {comment.split("-->")[0].strip() for comment in comments}


def test_dice_plot_names_structures_and_protocols():
    scores = {"baseline": {"LV": [0.8, 0.9], "LA": [0.7]}, "ours": {"LV": [0.85, 0.9], "LA": []}}
    root, words = words_of(charts.dice_plot(scores))
    assert root.tag.endswith("svg") and {"LV", "LA", "baseline", "ours"} <= words


def test_difference_plot_takes_a_missing_interval_and_names_with_dollars():
    rows = [("all structures", 0.8, -0.1, 1.7), ("a$b$", 1.0, None, None)]
    _, words = words_of(charts.difference_plot(rows, label="points"))
    assert {"all structures", "a$b$"} <= {word.replace(r"\$", "$") for word in words}


def test_curves_leave_out_what_is_not_finite_and_use_a_linear_axis_for_negative_values():
    svg = charts.curves({"fit": [(0, 1.0), (1, np.nan), (2, -1.0)]}, label="loss", log=True)
    assert b"nan" not in svg.lower()


def test_the_same_numbers_give_the_same_bytes():
    scores = {"ours": {"LV": [0.8, 0.9, 0.7]}}
    assert charts.dice_plot(scores) == charts.dice_plot(scores)


def test_a_drawing_has_all_its_ink_in_the_theme():
    light = charts.dice_plot({"ours": {"LV": [0.8, 0.9, 0.7]}})
    dark = charts.in_theme(light, charts.DARK).decode()
    assert charts.LIGHT.text in light.decode() and charts.LIGHT.grid in light.decode()
    assert charts.DARK.text in dark and charts.LIGHT.text not in dark and charts.LIGHT.grid not in dark
    assert "#000000" not in dark and "#ffffff" not in dark  # neither ink nor background that a theme cannot reach


def test_small_multiples_name_their_panels_and_leave_nothing_to_chance():
    panel = {"edges": [0, 1, 2], "real": [3, 1], "synthetic": [1, 1]}
    spectrum = {"frequency_per_mm": [0.1, 0.2], "real": [4.0, 2.0], "synthetic": [3.0, None]}
    for svg, names in (
        (charts.histograms({"LV": panel, "a$b$": panel}, label="HU"), {"LV", "a$b$", "HU", "real", "synthetic"}),
        (charts.spectra({"LV": spectrum}, label="power"), {"LV", "power", "real", "synthetic"}),
        (charts.similarities({"voxels": ([0.1, 0.2], [0.3], 0.25)}), {"voxels", "held-out real", "threshold"}),
    ):
        _, words = words_of(svg)
        assert names <= {word.replace(r"\$", "$") for word in words}
        assert b"#000000" not in svg


def test_a_histogram_has_area_one_whatever_the_bins():
    edges, counts = np.array([0.0, 1.0, 3.0, 4.0]), np.array([2.0, 4.0, 2.0])
    assert (charts._area_one(counts, edges) * np.diff(edges)).sum() == pytest.approx(1)
    assert charts._area_one(np.zeros(3), edges).tolist() == [0, 0, 0]


def test_equal_similarities_can_be_drawn():
    assert b"svg" in charts.similarities({"labels": ([1.0, 1.0], [1.0], 1.0)})

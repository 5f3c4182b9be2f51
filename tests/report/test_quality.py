"""Words about the pairs follow the intervals: nothing is called different, or alike, that was not measured so."""

import pytest
from run_files import measure

from voxpair.report.quality import agreement, curve_drawings, reading, realism, tables


def pairs(*measures):
    return {"measures": list(measures), "warnings": []}


@pytest.mark.parametrize(
    ("better", "value", "words", "tone"),
    [
        ("lower", 3.0, "worse than real", "worse"),
        ("lower", 0.3, "better than real", "better"),
        ("lower", 1.1, "not told apart", "better"),
        ("higher", 0.3, "worse than real", "worse"),
        ("higher", 3.0, "better than real", "better"),
        ("floor", 3.0, "above real", "worse"),
        ("floor", 0.3, "below real", "worse"),
        ("floor", -3.0, "below real", "worse"),
    ],
)
def test_a_measure_is_read_by_its_intervals(better, value, words, tone):
    found = reading(measure("texture", "x", value, 1.0, better))
    assert (found.words, found.tone) == (words, tone)


def test_intervals_that_touch_do_not_differ_and_a_missing_end_decides_nothing():
    touching = {"low": 2.0, "high": 3.0, "floor_low": 1.0, "floor_high": 2.0, "better": "lower"}
    assert reading(touching).words == "not told apart"
    for end in ("low", "high", "floor_low", "floor_high"):
        assert reading(touching | {end: None}).words == "not known"


def test_what_was_not_measured_is_said_not_to_be():
    assert realism(None).headline == agreement(None).headline == "Not measured"
    only_fidelity = pairs(measure("fidelity", "frechet", 1.0, 1.0, "lower"))
    assert agreement(only_fidelity).headline == "Not known" and agreement(only_fidelity).tone == "open"
    unknown = realism(pairs(measure("fidelity", "frechet", None, None, "lower", note="too few cases")))
    assert (unknown.tone, unknown.headline, list(unknown.sentences)) == ("open", "Not known", ["too few cases"])


def test_alike_is_never_called_equal_and_the_value_stands_beside_its_floor():
    found = realism(pairs(measure("fidelity", "kid", 1.1, 1.0, "lower")))
    assert (found.tone, found.headline) == ("better", "Not told apart from real scans")
    assert found.sentences == [
        "Fidelity (0 of 1 differ): kernel distance (KID) 1.1 [0.99, 1.21] against 1 [0.9, 1.1] among real scans; "
        "lower is better."
    ]


def test_a_name_counts_once_however_many_structures_it_has():
    parts = [measure("texture", "noise_ratio", 0.5, 1.0, "floor", structure=name) for name in "abcd"]
    overall = measure("texture", "noise_ratio", 0.5, 1.0, "floor")
    good = measure("diversity", "ms_ssim", 0.4, 0.4, "floor"), measure("fidelity", "kid", 0.4, 0.4, "lower")
    found = realism(pairs(overall, *parts, *good))
    assert (found.tone, found.headline) == ("open", "1 of 3 measures differs from real scans")
    found = realism(pairs(*parts, *good))
    assert (found.tone, found.headline) == ("worse", "4 of 6 measures differ from real scans")


def test_nearer_than_real_is_no_praise():
    found = realism(pairs(measure("fidelity", "frechet", 0.1, 1.0, "lower")))
    assert "as copies would be" in found.sentences[-1]


def test_alignment_has_an_answer_of_its_own():
    content = pairs(
        measure("fidelity", "frechet", 9.0, 1.0, "lower"),
        measure("alignment", "dice", None, None, "higher", note="no segmenter"),
        measure("alignment", "edge_offset", 1.5, 0.2, "floor", unit="mm"),
    )
    found = agreement(content)
    assert (found.tone, found.headline) == ("worse", "1 of 1 measure differs from real scans")
    assert found.sentences == ["Edge offset 1.5 mm [1.35, 1.65] against 0.2 mm [0.18, 0.22] among real scans."]
    assert "offset" not in " ".join(realism(content).sentences)


def test_a_table_keeps_groups_in_order_and_those_of_other_tools():
    names = ["mine", "alignment", "fidelity"]
    found = tables(pairs(*(measure(group, "x", 1.0, 1.0, "lower") for group in names)))
    assert [table.title for table in found] == ["Fidelity", "Alignment", "Mine"]
    assert tables(None) == []


def test_a_family_without_an_overall_measure_is_summed_up():
    values = {"a": (1.0, 1.0), "b": (5.0, 1.0), "c": (None, None)}
    (table,) = tables(pairs(*(measure("texture", "w", *v, "lower", structure=name) for name, v in values.items())))
    (head,) = table.rows
    assert (head.name, head.value, head.floor) == ("W", "1 to 5", "1 to 1")
    assert (head.reading.words, head.reading.tone) == ("1 of 2 differ: b", "worse")
    assert [row.name for row in table.parts] == ["W (a)", "W (b)", "W (c)"]


def test_curves_without_values_are_left_out(undrawn):
    full = {"edges": [0, 1], "real": [1], "synthetic": [1]}
    content = {"histograms": {"a": full, "b": None}, "noise_power": {"a": {"real": [], "synthetic": []}}, "unit": ""}
    ((title, drawing),) = curve_drawings(content)
    assert title == "Grey values by structure" and "for a;" in drawing.words
    assert curve_drawings(None) == []

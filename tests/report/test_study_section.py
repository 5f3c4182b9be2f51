"""The study's table and verdict on the page, from rows as ``study.json`` holds them."""

import json

import pytest

from report.run_files import HOSTILE
from voxpair.report.page import write_report
from voxpair.report.study import drawing, tables, verdict

COUNTS = ((8, 0), (48, 0))


def row(counts, arm, structure, dice, difference=None, half=0.01):
    ends = (None, None) if difference is None else (difference - half, difference + half)
    return {
        "labelled": counts[0], "unlabelled": counts[1], "arm": arm, "about": "", "updates": 200, "structure": structure,
        "seeds": 3, "patients": 40, "dice": dice, "sd_seeds": 0.004,
        "reference": None if difference is None else "baseline_equal_updates",
        "difference": difference, "low": ends[0], "high": ends[1], "p_value": None if difference is None else 0.0371,
        "p_holm": None, "smallest_detectable": None if difference is None else 0.0123,
    }  # fmt: skip


def rows(*differences):
    found = []
    for counts, difference in zip(COUNTS, differences):
        for structure in (None, "LV", HOSTILE):
            found.append(row(counts, "baseline_equal_updates", structure, 0.8))
            found.append(row(counts, "ours_real_last", structure, 0.8 + difference, difference))
    return found


def test_a_table_per_number_of_cases_with_every_arm_and_structure():
    first, second = tables(rows(0.02, -0.005))
    assert first.title == "8 labelled and 0 unlabelled training cases"
    assert "a mean difference of 1.2 points would have shown" in first.note
    assert list(first.heads) == ["Updates", "Seeds", "Mean Dice", "LV", HOSTILE, "Difference, points", "p"]
    (_, reference), (name, ours) = first.lines
    assert name == "Ours real last" and reference[-2:] == ["reference", "–"]
    assert list(ours) == ["200", "3", "0.820 ± 0.004", "0.820", "0.820", "+2.0 [1.0, 3.0]", "0.0371"]
    assert second.lines[1][1][-2] == "−0.5 [−1.5, 0.5]"


def test_a_secondary_p_value_is_shown_adjusted():
    adjusted = [found | {"p_holm": 0.0742} if found["difference"] else found for found in rows(0.02)]
    assert tables(adjusted)[0].lines[1][1][-1] == "0.0742"


@pytest.mark.parametrize(
    ("differences", "tone"), [((0.02, 0.03), "better"), ((-0.02, -0.03), "worse"), ((0.02, 0.005), "open")]
)
def test_better_only_where_every_interval_says_so(differences, tone):
    found = verdict(rows(*differences))
    assert found.tone == tone and len(found.sentences) == 2
    assert "over 40 patients and 3 seeds" in found.sentences[0]


def test_one_arm_is_no_comparison_and_one_number_of_cases_no_curve():
    alone = [row((8, 0), "baseline_equal_updates", None, 0.8)]
    assert verdict(alone).tone == "open" and drawing(alone) is None
    assert "0.820 at 8, 0.820 at 48" in drawing(rows(0.02, 0.02)).words


def test_the_page_shows_it_escaped_and_links_to_the_experiments(tmp_path):
    (tmp_path / "study.json").write_text(json.dumps({"generator": "joint_ldm", "about": "", "rows": rows(0.02, 0.03)}))
    (tmp_path / "summary.json").write_text(json.dumps({"experiments": ["labelled-8", "labelled-48"]}))
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert HOSTILE not in page and "Ours real last is better" in page
    assert 'href="labelled-8/report.html"' in page and "+2.0 [1.0, 3.0]" in page

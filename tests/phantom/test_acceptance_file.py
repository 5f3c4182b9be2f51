"""The committed measurements of 300 hearts are accepted, the rule can refuse, and the page says what they say."""

import importlib.util
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest

from voxpair.core.run import read_json
from voxpair.phantom.anatomy import HeartParameters

ROOT = Path(__file__).resolve().parents[2]
RESULT = read_json(ROOT / "benchmarks/phantom/acceptance.json")


@pytest.fixture(scope="module")
def acceptance():
    spec = importlib.util.spec_from_file_location("acceptance", ROOT / "benchmarks/phantom/acceptance.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_hearts_are_accepted(acceptance):
    assert acceptance.failures(RESULT) == []
    assert set(RESULT["sizes"]) == {f"{name} {sex}" for name in acceptance.SIZES for sex in "MF"}
    assert len(RESULT["brightness_hu"]) == 4 * 7


def test_the_file_holds_todays_targets(acceptance):
    for name, by_sex in acceptance.SIZES.items():
        for sex, target in by_sex.items():
            assert tuple(RESULT["sizes"][f"{name} {sex}"]["published"]) == target


@pytest.mark.parametrize(
    ("part", "row", "changes", "words"),
    [
        ("sizes", "LV_diastolic_ml M", {"z": -3.2}, "LV_diastolic_ml M: z = -3.2"),
        ("sizes", "MYO_ml F", {"sd": 40.0}, "MYO_ml F: SD 40.0"),
        ("brightness_hu", "mixed RA", {"z": 4.0}, "mixed RA: z = 4.0"),
        ("correlations", "LV_diastolic_ml RV_diastolic_ml", {"found": 0.5}, "correlation of LV_diastolic_ml"),
        ("invariants", "LV_RV_touching_voxels", 1, "LV_RV_touching_voxels: 1"),
        ("invariants", "hearts", 100, "hearts: 100"),
        ("invariants", "stroke_volumes_differ_at_most", 0.2, "stroke_volumes_differ_at_most: 0.2"),
    ],
)
def test_a_worse_file_is_refused_with_the_row_named(acceptance, part, row, changes, words):
    worse = deepcopy(RESULT)
    worse[part][row] = {**worse[part][row], **changes} if isinstance(changes, dict) else changes
    assert any(line.startswith(words) for line in acceptance.failures(worse))


def test_rows_that_are_all_a_little_off_are_refused_together(acceptance):
    worse = deepcopy(RESULT)
    for row in worse["sizes"].values():
        row["z"] = 1.9
    (line,) = acceptance.failures(worse)
    assert line.startswith("sizes: the sum of z^2")


def test_diameters_are_measured_in_label_maps(acceptance):
    typical, wide = (
        acceptance.measure(HeartParameters(ascending_radius_mm=up, pulmonary_trunk_radius_mm=lung), 3.5)
        for up, lung in ((17.0, 13.0), (20.0, 15.0))
    )
    for name, one, other in (("ascending_mm", 34, 40), ("pulmonary_mm", 26, 30)):
        assert [typical[name], wide[name]] == pytest.approx([one, other], rel=0.06)
        assert typical[name] not in (one, other)
    assert np.isfinite([v for v in typical.values() if not isinstance(v, str)]).all()


def test_the_page_says_what_the_file_says(acceptance):
    page = acceptance.PAGE.read_text(encoding="utf-8")
    wanted = acceptance.BEGIN + acceptance.table(RESULT) + acceptance.END
    assert wanted in page, "run: python benchmarks/phantom/acceptance.py --table"

"""docs/study.md: its table of power is computed, and it knows every arm."""

import re
from pathlib import Path

import numpy as np
import pytest

from voxpair.arms import ARMS
from voxpair.evaluation.statistics import smallest_detectable_difference

TEXT = (Path(__file__).resolve().parents[2] / "docs/study.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("sd", [1, 2, 5])
def test_the_power_that_is_stated_is_the_one_that_is_computed(sd):
    row = re.search(rf"^\| {sd} points? \| (.*) \|$", TEXT, re.MULTILINE).group(1)
    for patients, stated in zip((10, 20, 50, 100), row.split(" | "), strict=True):
        differences = np.resize([-1.0, 1.0], patients)
        differences *= sd / differences.std(ddof=1)
        assert f"{smallest_detectable_difference(differences):.1f}" == stated


def test_every_arm_is_explained():
    for name in ARMS:
        family = re.fullmatch(r"(e[23])_\d", name)
        assert (f"`{family.group(1)}_1` …" if family else f"`{name}`") in TEXT

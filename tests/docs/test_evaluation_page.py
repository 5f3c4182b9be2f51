"""docs/evaluation.md explains every number that the code can emit, under the name it has in the files."""

import csv
import importlib.util
import json
import re
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from voxpair.cohorts.cohort import CohortWriter
from voxpair.core.labels import CARDIAC8
from voxpair.evaluation import statistics
from voxpair.evaluation.audit import memorisation
from voxpair.evaluation.audit.disguises import DISGUISES
from voxpair.evaluation.masks import agreement, summary
from voxpair.evaluation.pairs import diversity, edges, lpips, measures
from voxpair.evaluation.pairs.evaluate import Judges, evaluate_pairs
from voxpair.evaluation.pairs.measures import Measure
from voxpair.evaluation.pairs.perceptual import ARCHITECTURES
from voxpair.evaluation.selection import quest, selector
from voxpair.evaluation.selection.ranges import KINDS
from voxpair.phantom.heart_cohort import PhantomSettings, heart_cases

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/evaluation.md").read_text(encoding="utf-8")
GOOD = {"lower": "low", "higher": "high", "floor": "near floor"}


def script(name: str):
    """Import a script of benchmarks/evaluation."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"benchmarks/evaluation/{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def part(title: str) -> str:
    """Return the text under the heading that starts with ``title``, up to the next of that level or above."""
    found = re.search(rf"^(#+) {re.escape(title)}.*?(?=^#{{1,2}} |^\1 |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"docs/evaluation.md has no heading {title!r}"
    return found[0]


def table_rows(text: str) -> dict[str, list[str]]:
    """Return the rows of Markdown tables by every name in their first cell."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return {name: row for row in rows for name in re.findall(r"`([^`]+)`", row[0])}


def assert_named(names, text: str) -> None:
    missing = [name for name in names if f"`{name}`" not in text]
    assert not missing, f"docs/evaluation.md does not explain {missing}"


class Positions:
    """An extractor that knows where voxels are bright."""

    name, digest = "positions", "0"

    def features(self, case):
        return {view: case.image.mean(axis=axis).ravel() for axis, view in enumerate(("sagittal", "coronal", "axial"))}


@pytest.fixture(autouse=True, scope="module")
def _quick():
    """Names do not depend on how often is drawn."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name, count in ((measures, "DRAWS", 4), (diversity, "PAIRS", 6), (edges, "PATCHES", 50)):
            patch.setattr(module, name, count)
        yield


@pytest.fixture(scope="module")
def hearts():
    return list(heart_cases(PhantomSettings(grid=(16, 16, 16), field_of_view_mm=(150, 150, 130)), 12, seed=3))


@pytest.fixture(scope="module")
def measured(hearts, tmp_path_factory):
    """Measures, folder and cohorts of ``evaluate_pairs``: four hearts that pass for synthetic, eight that are real."""
    folder = tmp_path_factory.mktemp("pairs")
    cohorts = []
    for name, source, cases in (("synthetic", "synthetic", hearts[:4]), ("real", "phantom", hearts[4:])):
        writer = CohortWriter(folder / name, CARDIAC8, "CT")
        for case in cases:
            writer.add(replace(case, source=source))
        cohorts.append(writer.finish())
    judges = Judges(Positions(), labeller=lambda case: case)
    return evaluate_pairs(*cohorts, folder, judges=judges), folder, cohorts


def test_every_measure_of_pairs_is_explained_with_its_unit_and_direction(measured, hearts):
    thumbnails = [np.resize(diversity.describe(case, "CT"), (24, 24, 24)) for case in hearts[:4]]
    emitted = [*measured[0], *diversity.compare(thumbnails, thumbnails)]
    assert {"ssim", "ms_ssim", "rule_broken", "mirrored"} <= {measure.name for measure in emitted}
    titles = {"fidelity": "Fidelity", "diversity": "Diversity", "texture": "Texture"}
    titles |= {"plausibility": "Plausibility", "alignment": "Alignment"}
    for measure in emitted:
        row = table_rows(part(titles[measure.group])).get(measure.name)
        assert row, f"docs/evaluation.md does not explain {measure.name} under {measure.group}"
        _, unit, good, meaning, _ = row
        assert good == GOOD[measure.better], f"{measure.name}: the page says {good!r}, the code {measure.better!r}"
        assert unit.split(",")[0] == measure.unit, f"{measure.name}: the page says {unit!r}, the code {measure.unit!r}"
        assert meaning


def test_the_page_explains_no_measure_that_is_not_there(measured):
    emitted = {measure.name for measure in measured[0]} | {"ms_ssim"}
    for title in ("Fidelity", "Diversity", "Texture", "Plausibility", "Alignment"):
        explained = {name for name in table_rows(part(title)) if not name.startswith("lpips_")}
        assert explained <= emitted


def test_every_name_of_lpips_is_explained():
    for name, architecture in ARCHITECTURES.items():
        if architecture.taps:
            networks = [SimpleNamespace(name=name, architecture=architecture, linear=linear) for linear in ((), (1,))]
            assert_named(map(lpips.measure_name, networks), part("Diversity"))
        assert_named([name], part("`evaluate pairs`"))


def test_every_key_and_column_of_pairs_is_explained(measured):
    folder, text = measured[1], part("`evaluate pairs`")
    assert_named((field.name for field in fields(Measure)), text)
    assert_named(json.loads((folder / "pairs.json").read_text()), text)
    assert_named(json.loads((folder / "curves.json").read_text()), text)
    with (folder / "pairs.csv").open(newline="") as stream:
        columns = next(csv.reader(stream))
    assert "LAA_stray_share" in columns
    assert_named({re.sub(rf"^({'|'.join(CARDIAC8.names)})_", "STRUCTURE_", column) for column in columns}, text)


def test_every_column_and_key_of_masks_is_explained():
    text = part("`evaluate masks`")
    assert_named(agreement.COLUMNS, text)
    assert_named(summary.STATUSES, text)
    for kind in (summary.Summary, summary.StructureSummary, summary.Estimate, statistics.Comparison):
        assert_named((field.name for field in fields(kind)), text)
    assert_named(["p_holm", "protocols", "comparisons"], text)


def test_every_rule_and_key_of_selection_is_explained():
    text = part("`sample --select`")
    assert list(table_rows(text))[: len(selector.RULE_NAMES)] == list(selector.RULE_NAMES)
    rejected = selector.Judgement(("too small",), ("volume",), {})
    found = quest.summary([rejected])
    assert_named([*found, *found["rejected"][0], *asdict(rejected)], text)
    assert_named([f"STRUCTURE_{kind}" for kind in KINDS], text)


def test_every_key_of_the_audit_is_explained():
    text = part("`audit`")
    rows = table_rows(text)
    for field in fields(memorisation.Audit):
        assert field.name in rows, f"docs/evaluation.md has no row for {field.name} of audit.json"
    assert_named(DISGUISES, text)
    match = SimpleNamespace(case="", nearest="", patient="", score=0, threshold=0, detector="", scores={})
    assert_named(memorisation._as_copy(match), text)
    assert_named(["passed", "planted", "found", "by_disguise", "embedding", "voxels", "labels"], text)
    assert_named(["false_alarm_rate", "nearest_synthetic", "nearest_reference", "reference"], text)


def test_the_benchmark_measures_what_evaluate_pairs_measures(measured):
    changes = script("known_changes")
    halves = changes.Halves([], [], "CT", Judges(Positions(), labeller=lambda case: case), {})
    made, there = ([changes.describe(case, halves) for case in cohort] for cohort in measured[2])
    assert changes.measure(made, there) == measured[0]


def test_known_changes_change_what_they_say():
    changes = script("known_changes")
    cases = list(heart_cases(PhantomSettings(grid=(32, 32, 32), field_of_view_mm=(150, 150, 130)), 8, seed=3))
    made = {name: change(cases, ("LA", "RA")) for name, change in changes.CHANGES.items()}
    assert all(ours is theirs for ours, theirs in zip(made["unchanged"], cases))
    for name in ("blur 0.7", "blur 1.5", "noise 0.5", "noise 1", "brighter"):
        assert all(np.array_equal(ours.labels, theirs.labels) for ours, theirs in zip(made[name], cases))
        assert not any(np.array_equal(ours.image, theirs.image) for ours, theirs in zip(made[name], cases))
    for name in ("labels shifted", "classes swapped"):
        assert all(ours.image is theirs.image for ours, theirs in zip(made[name], cases))
    assert np.array_equal(made["labels shifted"][0].labels[1:], cases[0].labels[:-1])
    swapped = [i for i, (a, b) in enumerate(zip(made["classes swapped"], cases)) if a is not b]
    assert swapped == [0, 4]
    left, right = (CARDIAC8.value_of(name) for name in ("LA", "RA"))
    assert np.array_equal(made["classes swapped"][0].labels == left, cases[0].labels == right)
    assert np.array_equal(made["mirrored"][0].image[::-1], cases[0].image)
    assert [case.name for case in made["repeated"]] == [cases[i].name for i in (0, 0, 0, 0, 1, 1, 1, 1)]
    noises = [np.std(made[name][0].image - cases[0].image) for name in ("noise 0.5", "noise 1")]
    assert noises[1] == pytest.approx(2 * noises[0], rel=1e-3)


def test_tables_are_made_from_the_file():
    table = script("table")
    assert table.BEGIN + table.section() + table.END in PAGE, "run: python benchmarks/evaluation/table.py"

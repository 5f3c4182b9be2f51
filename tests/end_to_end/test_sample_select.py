"""Selection while sampling: who is kept, under which number, and that a quest broken off goes on."""

from dataclasses import replace

import numpy as np
import pytest

from voxpair import stages
from voxpair.cohorts.cohort import Cohort, CohortWriter
from voxpair.core.run import read_json
from voxpair.evaluation.selection.selector import SelectionSettings
from voxpair.phantom.heart_cohort import PhantomSettings, heart_cases
from voxpair.stages.selection import add_accepted

SETTINGS = PhantomSettings(grid=(32, 32, 32), field_of_view_mm=(160, 160, 140))
SESSION = stages.Session()


@pytest.fixture(scope="module")
def selection(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    writer = None
    for case in heart_cases(SETTINGS, 24, seed=0):
        writer = writer or CohortWriter(folder, case.label_table, "CT")
        writer.add(case, split="train")
    writer.finish()
    return stages.Selection(folder, SelectionSettings(rules=("situs",)))


def draw(index):
    """Every third heart is mirrored."""
    (heart,) = heart_cases(SETTINGS, index + 1, seed=9, first=index)
    heart = replace(heart, name=f"made_{index}", source="synthetic", provenance={"index": index})
    if index % 3:
        return heart
    return replace(heart, image=np.ascontiguousarray(heart.image[::-1]), labels=heart.labels[::-1])


def start(folder):
    return CohortWriter(folder, draw(1).label_table, "CT")


def test_mirrored_hearts_are_drawn_again_and_named(selection, tmp_path):
    writer = start(tmp_path)
    add_accepted(writer, draw, 4, selection, SESSION)
    cohort = writer.finish()
    assert cohort.names == ("made_1", "made_2", "made_4", "made_5")
    found = read_json(tmp_path / "selection.json")
    assert [entry["index"] for entry in found["rejected"]] == [0, 3]
    assert (found["drawn"], found["accepted"], found["rules"]) == (6, 4, {"situs": 2})
    assert all("mirrored" in entry["reasons"][0] for entry in found["rejected"])
    assert "LV_ml" in next(iter(cohort)).provenance["selection"]


@pytest.mark.parametrize("when", ["after the case", "after its judgement"])
def test_a_quest_broken_off_goes_on(selection, tmp_path, when):
    class Broken(Exception):
        pass

    def breaking(index):
        if index == 3:
            raise Broken
        return draw(index)

    with pytest.raises(Broken):
        add_accepted(start(tmp_path / "a"), breaking, 4, selection, SESSION)
    if when == "after the case":  # killed between the two lines: the case is there, its judgement is not
        path = tmp_path / "a/judgements.jsonl"
        whole = path.read_text().splitlines(keepends=True)
        path.write_text("".join(whole[:-1]) + whole[-1][:20])
    again = start(tmp_path / "a")
    add_accepted(again, draw, 4, selection, SESSION)
    straight = start(tmp_path / "b")
    add_accepted(straight, draw, 4, selection, SESSION)
    assert again.finish().digest() == straight.finish().digest()
    assert read_json(tmp_path / "a/selection.json") == read_json(tmp_path / "b/selection.json")
    assert (tmp_path / "a/judgements.jsonl").read_text() == (tmp_path / "b/judgements.jsonl").read_text()
    assert len(Cohort.open(tmp_path / "a")) == 4

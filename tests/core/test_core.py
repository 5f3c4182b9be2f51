"""The words of the core refuse what they cannot hold, and say so."""

import numpy as np
import pytest

from voxpair.core.case import Case
from voxpair.core.errors import InputError, RunError
from voxpair.core.labels import CARDIAC8, LabelTable, Structure
from voxpair.core.run import RunFolder, atomic_path, derive_seed, read_json, read_log, write_json
from voxpair.core.settings import Settings, digest, merge, override


def make_case(**changes):
    content = {
        "name": "a",
        "image": np.zeros((3, 4, 5), np.float32),
        "labels": np.zeros((3, 4, 5), np.uint8),
        "affine": np.diag([1.0, 2.0, 3.0, 1.0]),
        "label_table": CARDIAC8,
        "patient": "a",
    }
    return Case(**(content | changes))


def test_a_label_table_goes_through_json(tmp_path):
    write_json(tmp_path / "table.json", CARDIAC8.to_json())
    assert LabelTable.from_json(read_json(tmp_path / "table.json")) == CARDIAC8


def test_spacing_is_read_from_a_rotated_affine():
    turn = np.array([[0, -2, 0, 5], [1.5, 0, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1.0]])
    assert make_case(affine=turn).spacing_mm == (1.5, 2.0, 3.0)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"name": "a/b"}, "case name 'a/b'"),
        ({"image": np.zeros((3, 4), np.float32)}, "expected a 3D image"),
        ({"image": np.full((3, 4, 5), np.nan, np.float32)}, "60 voxels that are NaN"),
        ({"labels": np.zeros((3, 4, 6), np.uint8)}, r"labels have shape \(3, 4, 6\)"),
        ({"labels": np.full((3, 4, 5), 9)}, r"label value 9 \(60 voxels\)"),
        ({"affine": np.zeros((4, 4))}, "not an invertible"),
    ],
)
def test_a_case_checks_itself(changes, text):
    with pytest.raises(InputError, match=text):
        make_case(**changes)


def test_label_values_and_classes_are_inverse_also_with_gaps():
    table = LabelTable("gaps", (Structure(5, "a", "#000000"), Structure(200, "b", "#ffffff")))
    labels = np.array([0, 5, 200, 5], np.uint8)
    assert table.to_classes(labels).tolist() == [0, 1, 2, 1]
    assert table.to_values(table.to_classes(labels)).tolist() == labels.tolist()


def test_a_table_survives_nnunet_form_and_keeps_known_colours():
    again = LabelTable.from_mapping("cardiac8", CARDIAC8.to_mapping())
    assert again == CARDIAC8


def test_duplicate_values_and_names_are_refused():
    with pytest.raises(InputError, match="distinct"):
        LabelTable("t", (Structure(1, "a", "#0"), Structure(1, "b", "#0")))
    with pytest.raises(InputError, match="names must be distinct"):
        LabelTable("t", (Structure(1, "a", "#0"), Structure(2, "a", "#0")))
    with pytest.raises(InputError, match="no structure 'XX'"):
        CARDIAC8.value_of("XX")


class Inner(Settings):
    rate: float = 1.0
    name: str = "x"


class Outer(Settings):
    inner: Inner = Inner()
    sizes: tuple[int, int] = (1, 2)


def test_override_reads_yaml_and_bare_exponents():
    result = override(Outer(), ["inner.rate=1e-3", "sizes=[3, 4]", "inner.name=1.5.2"])
    assert result == Outer(inner=Inner(rate=0.001, name="1.5.2"), sizes=(3, 4))


@pytest.mark.parametrize(
    ("assignment", "text"),
    [
        ("inner.speed=1", "unknown setting 'inner.speed'; known here: inner.rate, inner.name"),
        ("inner.rate=fast", "setting 'inner.rate' = 'fast'"),
        ("inner.rate", "expected key=value"),
    ],
)
def test_a_wrong_setting_is_named(assignment, text):
    with pytest.raises(InputError, match=text):
        override(Outer(), [assignment])


def test_merge_keeps_what_is_not_named_and_digest_follows_content():
    merged = merge(Outer(), {"inner": {"name": "y"}}, source="file")
    assert merged.inner == Inner(name="y") and digest(merged) != digest(Outer()) == digest(Outer())


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "facts.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="Out of range"):
        write_json(path, {"a": float("nan")})
    with pytest.raises(RunError, match="cannot write"), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")
    assert read_json(path) == {"a": 1} and [p.name for p in tmp_path.iterdir()] == ["facts.json"]


def test_a_log_cut_by_a_kill_is_read_up_to_the_cut(tmp_path):
    run = RunFolder(tmp_path)
    run.log({"update": 1})
    with run.file("metrics.jsonl").open("a") as stream:
        stream.write('{"update": 2, "lo')
    assert read_log(run.file("metrics.jsonl")) == [{"update": 1}]


def test_a_finished_stage_knows_its_inputs(tmp_path):
    run = RunFolder(tmp_path)
    assert not run.is_done("aa")
    run.mark_done("aa", score=1)
    assert run.is_done("aa")
    with pytest.raises(InputError, match="of other settings or data"):
        run.is_done("bb")


def test_seeds_are_fixed_for_ever():
    assert derive_seed("sample", 0, 0) == 5737713894417711266
    assert len({derive_seed("sample", 0, i) for i in range(1000)}) == 1000


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot create the folder"):
        RunFolder(tmp_path / "file" / "run")


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan"])
def test_a_setting_that_is_not_finite_is_refused_by_name(value):
    with pytest.raises(InputError, match=r"'inner.rate'.*finite"):
        override(Outer(), [f"inner.rate={value}"])

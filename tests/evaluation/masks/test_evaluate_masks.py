"""A cohort of predictions against its reference: what is missing or empty costs, and is named."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest

from voxpair.core.case import Case
from voxpair.core.errors import InputError
from voxpair.core.labels import LabelTable
from voxpair.evaluation.masks.agreement import read_rows
from voxpair.evaluation.masks.comparison import compare_protocols
from voxpair.evaluation.masks.evaluate import evaluate_masks
from voxpair.evaluation.masks.summary import pool, read_summary
from voxpair.evaluation.statistics import holm

TABLE = LabelTable.from_mapping("two", {"background": 0, "A": 1, "B": 4})
SHAPE = (8, 8, 8)


class MemoryCohort:
    """What evaluation asks of a cohort, without a disk."""

    def __init__(self, cases, table=TABLE):
        self.cases = {case.name: case for case in cases}
        self.label_table = table
        self.records = [SimpleNamespace(name=c.name, patient=c.patient) for c in cases]

    def labelled(self):
        return MemoryCohort([case for case in self.cases.values() if case.labels is not None], self.label_table)

    def read_labels(self, name):
        return self.cases[name]


def case(name, a=0, b=0, *, patient=None, table=TABLE, affine=None, shape=SHAPE, labelled=True):
    """A case with ``a`` x-layers of structure A, then ``b`` of structure B, on a 1 x 1 x 2 mm grid."""
    labels = np.zeros(shape, np.uint8)
    labels[:a] = 1
    labels[a : a + b] = 4
    affine = np.diag([1.0, 1.0, 2.0, 1.0]) if affine is None else affine
    image = np.zeros(shape, np.float32)
    return Case(name, image, labels if labelled else None, affine, table, patient or name)


REFERENCE = MemoryCohort([case("one", 2, 2), case("two", 2, 2), case("three", 2, 0), case("free", labelled=False)])


def test_means_counts_and_files(tmp_path):
    predictions = MemoryCohort([case("one", 2, 2), case("two", 4, 0), case("three", 2, 0), case("stranger", 1)])
    summary = evaluate_masks(predictions, REFERENCE, tmp_path, tolerance_mm=1.0)
    a, b = summary.structures["A"], summary.structures["B"]
    assert a.counts == {"ok": 3, "ref_empty": 0, "pred_empty": 0, "both_empty": 0}
    assert b.counts == {"ok": 1, "ref_empty": 0, "pred_empty": 1, "both_empty": 1}
    assert a.dice.mean == pytest.approx((1 + 2 / 3 + 1) / 3)
    assert b.dice.mean == 0.5 and b.dice.patients == 2  # "three" rightly has no B: in no mean
    assert summary.dice.mean == pytest.approx((a.dice.mean + b.dice.mean) / 2)
    diagonal_mm = np.sqrt(8**2 + 8**2 + 16**2)
    assert b.hd95_mm.mean == pytest.approx(diagonal_mm / 2) and b.hd95_mm.undefined == 1
    assert b.volume_error_ml.mean == pytest.approx(-0.128)  # two layers of 64 voxels of 2 mm³, missed in one of two
    assert summary.extra_predictions == ["stranger"] and summary.missing_predictions == []

    with (tmp_path / "masks.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(r["case"], r["structure"], r["status"]) for r in rows[2:4]] == [
        ("two", "A", "ok"),
        ("two", "B", "pred_empty"),
    ]
    assert (rows[3]["dice"], rows[3]["volume_error_ml"], rows[3]["status"]) == ("0.0", "-0.256", "pred_empty")
    assert float(rows[3]["hd95_mm"]) == float(rows[3]["assd_mm"]) == diagonal_mm  # what the mean takes is in the file
    assert (rows[5]["dice"], rows[5]["hd95_mm"], rows[5]["status"]) == ("", "", "both_empty")
    written = json.loads((tmp_path / "masks.json").read_text())
    assert written["structures"]["B"]["dice"]["mean"] == 0.5
    assert "nan" not in (tmp_path / "masks.csv").read_text().lower()


def test_a_missing_prediction_is_a_missed_case_and_is_named(tmp_path):
    complete = MemoryCohort([case("one", 2, 1), case("two", 2, 2), case("three", 2, 0)])
    partial = MemoryCohort([case("two", 2, 2), case("three", 2, 0), case("one", labelled=False)])
    before = evaluate_masks(complete, REFERENCE, tmp_path / "complete")
    after = evaluate_masks(partial, REFERENCE, tmp_path / "partial")
    assert after.missing_predictions == ["one"]
    assert after.structures["A"].dice.mean == pytest.approx(2 / 3)
    for name in ("A", "B"):  # leaving out a poor case must not improve anything
        old, new = before.structures[name], after.structures[name]
        assert new.dice.mean < old.dice.mean and new.nsd.mean < old.nsd.mean
        assert new.hd95_mm.mean > old.hd95_mm.mean and new.assd_mm.mean > old.assd_mm.mean


def test_a_structure_nobody_has_is_null(tmp_path):
    summary = evaluate_masks(MemoryCohort([case("x", 2)]), MemoryCohort([case("x", 2)]), tmp_path)
    assert summary.structures["B"].dice.mean is None and summary.structures["B"].counts["both_empty"] == 1
    assert (summary.dice.mean, summary.dice.low, summary.dice.sd) == (1.0, None, None)


def test_other_grids_other_labels_and_nothing_to_compare_are_refused(tmp_path):
    shifted = np.diag([1.0, 1.0, 2.0, 1.0])
    shifted[2, 3] = 5.0
    one = MemoryCohort([case("one", 2, 2)])
    for predictions, reference, message in [
        (MemoryCohort([case("one", 2, shape=(8, 8, 9))]), one, r"case one: the prediction has shape \(8, 8, 9\)"),
        (MemoryCohort([case("one", 2, affine=shifted)]), one, "case one: .* lie 5.00 mm apart"),
        (MemoryCohort([], LabelTable.from_mapping("x", {"A": 1})), one, "the reference {.*give both the same table"),
        (one, MemoryCohort([case("one", labelled=False)]), "no labelled case"),
    ]:
        with pytest.raises(InputError, match=message):
            evaluate_masks(predictions, reference, tmp_path)


def test_a_rounded_header_is_the_same_grid(tmp_path):
    rounded = np.diag([1.0, 1.0, 2.0, 1.0])
    rounded[:3, 3] = 1e-4
    predictions = MemoryCohort([case("one", 2, 2, affine=rounded)])
    assert evaluate_masks(predictions, MemoryCohort([case("one", 2, 2)]), tmp_path).dice.mean == 1.0


def run_of(tmp_path, name, **layers):
    predictions = [case(f"c{i}", *ab, patient=f"p{i // 2}") for i, ab in enumerate(layers["cases"])]
    reference = [case(f"c{i}", *ab, patient=f"p{i // 2}") for i, ab in enumerate(layers["reference"])]
    evaluate_masks(MemoryCohort(predictions), MemoryCohort(reference), tmp_path / name)
    return tmp_path / name


def test_comparison_is_paired_by_patient(tmp_path):
    reference = [(2, 2)] * 6
    good = run_of(tmp_path, "good", cases=[(2, 2)] * 6, reference=reference)
    poor = run_of(tmp_path, "poor", cases=[(2, 2), (2, 0)] + [(2, 2)] * 4, reference=reference)
    written = compare_protocols({"ours": [good], "baseline": [poor]}, [("ours", "baseline")], tmp_path / "c.json")
    assert json.loads((tmp_path / "c.json").read_text()) == written
    overall, a, b = written["comparisons"]
    assert (overall["structure"], a["structure"], b["structure"]) == (None, "A", "B")
    assert overall["patients"] == 3
    assert b["difference"] == pytest.approx((0.5 + 0 + 0) / 3)  # one of the first patient's two cases was missed
    assert overall["difference"] == pytest.approx(b["difference"] / 2)
    assert overall["low"] <= overall["difference"] <= overall["high"]
    assert a["p_value"] == 1.0 and b["p_holm"] >= b["p_value"] and "p_holm" not in overall
    assert a["effect_size"] is None and b["effect_size"] == pytest.approx(3**-0.5)  # 1/6 over an SD of half of root 1/3
    whole, _, lost = written["volume_errors_ml"]
    volume_ml = read_rows(poor / "masks.csv")[3].agreement.volume_error_ml
    assert lost["structure"] == "B" and volume_ml < 0
    assert lost["difference"] == pytest.approx(volume_ml / 2 / 3) and whole["difference"] == lost["difference"] / 2


def test_an_invented_structure_costs_and_an_agreed_absence_does_not_count(tmp_path):
    reference = [(2, 0), (2, 2), (2, 0), (2, 2)]
    right = run_of(tmp_path, "right", cases=reference, reference=reference)
    inventive = run_of(tmp_path, "inventive", cases=[(2, 3), *reference[1:]], reference=reference)
    content = compare_protocols({"a": [right], "b": [inventive]}, [("a", "b")], tmp_path / "c.json")
    b = next(c for c in content["comparisons"] if c["structure"] == "B")
    assert b["mean_a"] == 1.0 and b["mean_b"] == pytest.approx((0.5 + 1.0) / 2)  # c2 is left out: all agree


def test_what_is_written_is_read_back(tmp_path):
    predictions = MemoryCohort([case("one", 2, 2), case("two", 4, 0)])
    summary = evaluate_masks(predictions, REFERENCE, tmp_path)
    assert read_summary(tmp_path / "masks.json") == summary == pool([tmp_path])
    (tmp_path / "masks.json").write_text('{"dice": {"mean": 1.0}, "structures": {}}')
    with pytest.raises(InputError, match=r"masks\.json is no summary that this version reads"):
        read_summary(tmp_path / "masks.json")
    text = (tmp_path / "masks.csv").read_text()
    (tmp_path / "masks.csv").write_text(text.replace("both_empty", "pred_empty"))
    with pytest.raises(InputError, match=r"masks\.csv is no table .*lacks a number"):
        read_rows(tmp_path / "masks.csv")


def test_seeds_are_pooled_by_patient_before_patients_are(tmp_path):
    reference = [(2, 2)] * 4  # of two patients, two scans each
    first = run_of(tmp_path, "first", cases=[(2, 2), (2, 2), (4, 2), (2, 2)], reference=reference)
    second = run_of(tmp_path, "second", cases=[(2, 2), (2, 2), (2, 2), (2, 0)], reference=reference)
    found = pool([first, second])
    assert (found.seeds, found.cases, found.patients) == (2, 4, 2)
    a, b = found.structures["A"], found.structures["B"]
    of_second_patient = ((2 / 3 + 1) / 2 + 1) / 2  # scans c2 and c3, over both seeds
    assert a.dice_of_patients == pytest.approx([1.0, of_second_patient])
    assert a.dice.mean == pytest.approx((1 + of_second_patient) / 2)
    assert a.dice.sd == pytest.approx(np.std([1, of_second_patient], ddof=1))
    assert a.dice.low == pytest.approx(of_second_patient) and a.dice.high == 1.0
    assert b.counts["pred_empty"] == 1 and b.counts["ok"] == 7 and b.hd95_mm.undefined == 1
    means = [read_summary(folder / "masks.json").structures["A"].dice.mean for folder in (first, second)]
    assert a.dice.sd_seeds == pytest.approx(np.std(means, ddof=1))
    assert read_summary(first / "masks.json").structures["A"].dice.sd_seeds is None
    written = compare_protocols({"ours": [first, second], "other": [first]}, [("ours", "other")], tmp_path / "c.json")
    assert written["protocols"]["ours"]["dice"]["mean"] == found.dice.mean == written["comparisons"][0]["mean_a"]


def test_an_invention_costs_more_the_more_seeds_make_it(tmp_path):
    reference = [(2, 0), (2, 2)]
    right = run_of(tmp_path, "right", cases=reference, reference=reference)
    wrong = run_of(tmp_path, "wrong", cases=[(2, 3), (2, 2)], reference=reference)
    dice = [pool(folders).structures["B"].dice.mean for folders in ([right, right], [right, wrong], [wrong, wrong])]
    assert dice == [1.0, 0.75, 0.5]
    distances = [pool(folders).structures["B"].hd95_mm.mean for folders in ([right, wrong], [wrong, wrong])]
    assert 0 < distances[0] < distances[1]


def test_seeds_judged_with_other_tolerances_or_on_other_cases_are_refused(tmp_path):
    one, other = run_of(tmp_path, "one", cases=[(2, 2)], reference=[(2, 2)]), tmp_path / "other"
    evaluate_masks(
        MemoryCohort([case("c0", 2, 2)]), MemoryCohort([case("c0", 2, 2, patient="p0")]), other, tolerance_mm=2
    )
    with pytest.raises(InputError, match=r"tolerances of \[1.0, 2.0\] mm"):
        pool([one, other])
    with pytest.raises(InputError, match="different cases or structures: c1"):
        pool([one, run_of(tmp_path, "two", cases=[(2, 2)] * 2, reference=[(2, 2)] * 2)])


def test_holm_knows_two_families_and_leaves_the_primary_alone(tmp_path):
    reference = [(2, 2)] * 12
    good = run_of(tmp_path, "good", cases=reference, reference=reference)
    poor = run_of(tmp_path, "poor", cases=[(1, 2)] * 12, reference=reference)
    worst = run_of(tmp_path, "worst", cases=[(1, 1)] * 12, reference=reference)
    pairs = [("good", "poor"), ("good", "worst"), ("poor", "worst")]
    protocols = {"good": [good], "poor": [poor], "worst": [worst]}
    found = compare_protocols(protocols, pairs, tmp_path / "c.json")["comparisons"]
    overall = [c for c in found if c["structure"] is None]
    assert "p_holm" not in overall[0] and overall[0]["p_value"] == 1 / 32  # six patients, all better: 2 of 64 signs
    assert [c["p_holm"] for c in overall[1:]] == [2 / 32, 2 / 32]
    single = [c for c in found if c["structure"] is not None]
    assert [c["p_holm"] for c in single] == holm([c["p_value"] for c in single])


def test_protocols_on_other_cases_are_refused(tmp_path):
    two = run_of(tmp_path, "two", cases=[(2, 2)] * 2, reference=[(2, 2)] * 2)
    three = run_of(tmp_path, "three", cases=[(2, 2)] * 3, reference=[(2, 2)] * 3)
    with pytest.raises(InputError, match=r"protocols 'a' and 'b' .* different cases or structures: c2, p1, A"):
        compare_protocols({"a": [two], "b": [three]}, [("a", "b")], tmp_path / "c.json")
    with pytest.raises(InputError, match=r"there is no file .*masks\.json"):
        compare_protocols({"a": [tmp_path / "nowhere"]}, [], tmp_path / "c.json")

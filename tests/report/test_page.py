"""The page: complete, offline, escaped, honest, and still a page when parts of the run are absent."""

import base64
import gzip
import json
import re
import shutil
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from voxpair.core.errors import InputError
from voxpair.report.page import write_report
from voxpair.report.sheets import displayed
from voxpair.report.verdict import verdict

VOID = {"br", "meta", "link", "img", "source", "input", "rect"}


class Page(HTMLParser):
    """Collects what a browser would load, the text, and whether every element was closed."""

    def __init__(self, html):
        super().__init__()
        self.references, self.ids, self.images, self.open, self.texts = [], [], [], [], []
        self.tags, self.misnested = [], []
        self.feed(html)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        self.references += [attributes[key] for key in ("src", "href", "srcset", "action", "data") if key in attributes]
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag == "img":
            self.images.append(attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.misnested.append(tag)

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.texts.append(data)


def page_of(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def test_the_page_loads_nothing_and_runs_only_what_its_policy_names(run_folder, undrawn):
    page = page_of(run_folder)
    html = (run_folder / "report.html").read_text(encoding="utf-8")
    assert [reference for reference in page.references if not reference.startswith(("data:", "#"))] == []
    assert {reference[1:] for reference in page.references if reference.startswith("#")} <= set(page.ids)
    assert {tag for tag, _ in page.tags}.isdisjoint({"iframe", "object", "embed", "form"})
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)
    style = html.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style

    policy = next(attributes["content"] for tag, attributes in page.tags if "http-equiv" in attributes)
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:" and "connect-src" not in rules
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", html, re.DOTALL)
    assert [attributes.split('"')[1:2] for attributes, _ in scripts] == [["application/json"], ["application/gzip"], []]
    run = [gzip.decompress(base64.b64decode(scripts[1][1])), scripts[2][1].encode()]
    digests = [base64.b64encode(sha256(text).digest()).decode() for text in run]
    assert rules["script-src"] == " ".join(f"'sha256-{digest}'" for digest in digests)


def test_the_page_is_well_formed_and_every_picture_has_words(drawn_page):
    page = Page(drawn_page.read_text(encoding="utf-8"))
    assert page.misnested == [] and page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert all("alt" in image for image in page.images)
    sheets, plots = 5, 2 + 2 + 1  # real, synthetic, rejected, predictions, copies; Dice, differences, pairs, similarity
    assert sum(bool(image["alt"]) for image in page.images) == sheets + plots + 4 * 2  # and the training curves


def test_numbers_are_those_of_the_files(run_folder, undrawn):
    text = page_of(run_folder).text
    for protocol in ("baseline", "medical_diffusion", "ours"):
        summary = json.loads((run_folder / "evaluation" / protocol / "masks.json").read_text())
        for structure in summary["structures"].values():
            dice = structure["dice"]
            assert f"{dice['mean']:.3f} {dice['low']:.3f} to {dice['high']:.3f}" in text
            assert f"{structure['hd95_mm']['mean']:.2f}" in text
    for fact in ("168 train · 43 val · 51 test", "14 × 12 × 10 voxels", "130 F · 132 M", "500 pairs", "0.971", "12345"):
        assert fact in text
    assert "1 h 23 min" in text and "1 min 15 s" in text
    assert "torch 2.13.0" in text and "preset unit" in text and "seed 7" in text


def test_the_best_mean_of_a_row_is_bold_and_equal_ones_are_not(run_folder, undrawn):
    html = write_report(run_folder).read_text()
    assert "<strong>0.840</strong>" in html and "<strong>0.820</strong>" not in html
    assert "<strong>0.900</strong>" not in html  # surface Dice is .9 for all three


def test_the_verdict_comes_first_and_does_not_overclaim(run_folder, undrawn):
    text = page_of(run_folder).text
    lead = (
        "Ours 0.840 against 0.800 baseline in mean Dice, difference +0.8 points [−0.1, 1.7] "
        "over 9 patients and 1 seed: not distinguishable from no difference."
    )
    assert lead in text and text.index(lead) < text.index("The cohort at a glance")
    assert "With one seed" in text and "1.2 points or more (80 % power)" in text
    assert "Ours missed 3 structures" in text


def compared(low, high, patients=20, seeds=3, **changes):
    c = {"a": "ours", "b": "baseline", "structure": None, "mean_a": 0.84, "mean_b": 0.83, "difference": 0.01}
    c |= {"low": low, "high": high, "patients": patients, "seeds_a": seeds, "seeds_b": seeds, "p_value": 0.01}
    return verdict([c | {"sd_seeds_a": 0.004, "sd_seeds_b": 0.006, "smallest_detectable": 0.02} | changes], {})


def test_words_follow_the_interval():
    assert (compared(0.002, 0.018).tone, compared(0.002, 0.018).headline) == ("better", "Ours is better than baseline")
    assert compared(-0.018, -0.002).headline == "Ours is worse than baseline"
    assert compared(-0.001, 0.018).headline == "Ours and baseline cannot be told apart"
    assert compared(0.0, 0.018).tone == "open"
    doubtful = compared(0.002, 0.018, p_value=0.08)
    assert doubtful.tone == "open" and "Wilcoxon's test (p = 0.0800) does not agree" in doubtful.sentences[0]
    assert "patients and seeds explains" in compared(0.002, 0.018).sentences[0]
    assert "choice of patients explains" in compared(0.002, 0.018, seeds=1).sentences[0]
    few = compared(0.002, 0.018, patients=5)
    assert (few.tone, few.headline) == ("open", "Too few patients to decide")
    assert not any("power" in sentence for sentence in few.sentences)
    assert compared(None, None, patients=1).tone == "open"
    assert "SD of 0.4 (ours) and 0.6 points (baseline)" in " ".join(compared(0.002, 0.018).sentences)
    assert not any("one seed" in sentence for sentence in compared(0.002, 0.018).sentences)


def test_text_of_users_is_escaped(run_folder, undrawn):
    html = write_report(run_folder).read_text()
    assert "<script>alert" not in html and "<b>MYO</b>" not in html
    assert html.count("&lt;script&gt;") == 7  # a note, the command, a stage, the settings, a warning, two rejections
    assert "&lt;b&gt;MYO&lt;/b&gt;" in html


def test_a_colour_that_is_none_cannot_reach_the_page(run_folder, undrawn):
    summary = json.loads((run_folder / "summary.json").read_text())
    summary["cohort"]["label_table"]["LV"] = [3, 'red" onload="alert(1)']
    (run_folder / "summary.json").write_text(json.dumps(summary))
    assert "onload" not in write_report(run_folder).read_text()


@pytest.mark.parametrize(
    ("absent", "sentence"),
    [
        ("summary.json", "no summary of its cohort"),
        ("timings.json", "times of the stages were not recorded"),
        ("settings.yaml", "settings were not kept"),
        ("previews/synthetic.npz", "no synthetic previews"),
        ("previews/real.npz", "no real previews"),
        ("previews/predictions.npz", "no previews of predictions"),
        ("previews", "no previews of volumes"),
        ("synthetic/rejected.npz", "2 rejected, with reasons"),
        ("pairs/pairs.json", "were not compared with real ones"),
        ("pairs/curves.json", "Quality of the pairs"),
        ("audit/audit.json", "was not audited for copies"),
        ("audit/copies.npz", "37 of 40 found: the control passed"),
        ("synthetic/selection.json", "nothing was selected"),
        ("evaluation/comparison.json", "not compared patient by patient"),
        ("evaluation/ours", "Medical diffusion 0.820"),
        ("evaluation", "No masks have been evaluated"),
        ("segmenters", "Self-supervised pretraining"),
        ("generator/autoencoder/reconstruction.json", "Training"),
    ],
)
def test_absent_parts_are_said_to_be_absent(run_folder, undrawn, absent, sentence):
    path = run_folder / absent
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if absent == "evaluation/ours":
        (run_folder / "evaluation/comparison.json").unlink()
    page = page_of(run_folder)
    assert sentence in page.text and page.misnested == []


def test_a_folder_without_any_result_is_no_run(tmp_path):
    (tmp_path / "settings.yaml").write_text("seed: 0")
    with pytest.raises(InputError, match="holds no result that a report can show"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_run_that_has_just_begun_is_still_a_page(tmp_path):
    (tmp_path / "summary.json").write_text('{"title": "begun"}')
    text = page_of(tmp_path).text
    for sentence in (
        "No result yet", "no training curves", "no previews of volumes", "No masks have been evaluated",
        "Not measured", "Not audited", "was not audited for copies", "nothing was selected",
    ):  # fmt: skip
        assert sentence in text
    assert "<script" not in (tmp_path / "report.html").read_text()  # nothing to show in 3D, so nothing to run


def test_tables_show_what_is_pooled_over_seeds(run_folder, undrawn):
    shutil.copytree(run_folder / "evaluation/ours", run_folder / "evaluation/ours/seed1")
    assert "Ours: 9 cases of 9 patients, 1 seed (the others of 2 are not pooled yet)." in page_of(run_folder).text
    first = json.loads((run_folder / "evaluation/ours/masks.json").read_text())
    pooled = first | {"seeds": 2, "dice": first["dice"] | {"mean": 0.8765, "low": 0.8612, "high": 0.8899}}
    comparison = json.loads((run_folder / "evaluation/comparison.json").read_text())
    comparison["protocols"] = {"ours": pooled}
    (run_folder / "evaluation/comparison.json").write_text(json.dumps(comparison))
    text = page_of(run_folder).text
    assert "0.876 0.861 to 0.890" in text and "Ours: 9 cases of 9 patients, 2 seeds." in text
    assert "Baseline: 9 cases of 9 patients, 1 seed." in text


def test_p_values_beside_the_primary_one_are_adjusted(run_folder, undrawn):
    path = run_folder / "evaluation/comparison.json"
    comparison = json.loads(path.read_text())
    second = comparison["comparisons"][0] | {"b": "medical_diffusion", "p_value": 0.0111, "p_holm": 0.0222}
    path.write_text(json.dumps(comparison | {"comparisons": [*comparison["comparisons"], second]}))
    text = page_of(run_folder).text
    assert "0.0371" in text and "0.0222" in text and "0.0111" not in text


def test_settings_of_the_summary_serve_where_there_is_no_file(run_folder, undrawn):
    (run_folder / "settings.yaml").unlink()
    summary = json.loads((run_folder / "summary.json").read_text()) | {"settings": {"loop": {"updates": 777}}}
    (run_folder / "summary.json").write_text(json.dumps(summary))
    assert "updates: 777" in page_of(run_folder).text


def test_what_cannot_be_read_is_named(run_folder, undrawn):
    with pytest.raises(InputError, match="no run folder"):
        write_report(run_folder / "nowhere")
    (run_folder / "previews/real.npz").write_bytes(b"PK not a zip")
    with pytest.raises(InputError, match=r"cannot read the preview .*real\.npz"):
        write_report(run_folder)
    (run_folder / "previews/real.npz").unlink()
    copies = (run_folder / "audit/copies.npz").read_bytes()
    shutil.copy(run_folder / "previews/synthetic.npz", run_folder / "audit/copies.npz")  # without nearest images
    with pytest.raises(InputError, match=r"copies\.npz: .*s1_nearest"):
        write_report(run_folder)
    (run_folder / "audit/copies.npz").write_bytes(copies)
    audit = (run_folder / "audit/audit.json").read_text()
    (run_folder / "audit/audit.json").write_text('{"copies": []}')
    with pytest.raises(InputError, match=r"audit\.json lacks synthetic, patients, control, detectors"):
        write_report(run_folder)
    (run_folder / "audit/audit.json").write_text(audit)
    (run_folder / "evaluation/ours/masks.json").write_text("{}")
    with pytest.raises(InputError, match=r"masks\.json lacks dice, structures, cases, patients"):
        write_report(run_folder)


def test_the_window_is_in_hounsfield_units():
    image = np.array([0.0, 850 / 3000, 1200 / 3000, 1550 / 3000, 1.0])  # -1000, -150, 200, 550, 2000 HU
    assert displayed(image, (-1000, 2000), (-150, 550)) == pytest.approx([0, 0, 0.5, 1, 1])
    assert displayed(image, None, (-150, 550)) == pytest.approx(image)


def test_three_predictions_are_the_worst_the_median_and_the_best(run_folder, undrawn):
    html = write_report(run_folder).read_text()
    assert "worst: t2, median: t9, best: t1" in html and "best case by the Dice of ours" in html


def test_a_copy_is_named_above_its_picture(run_folder, undrawn):
    html = write_report(run_folder).read_text()
    assert "s1 like r3: embedding 0.97, s2; synthetic, axial, nearest real, axial" in html
    assert html.index("Is anyone copied?") < html.index("The cohort at a glance") < html.index('<section id="audit">')


def test_tables_of_measures_have_value_floor_and_reading(run_folder, undrawn):
    text = page_of(run_folder).text
    assert "Fréchet distance below 50 cases it is dominated by their number 3.14 2.83 to 3.45 1.21 1.09 to 1.33" in text
    assert "Wasserstein, HU 31.5 to 31.5 over 3 structures or views 12 to 12 lower 3 of 3 differ: LV" in text
    assert "Third class rate no boundary was long enough – – lower not known 20 and 20" in text
    assert "Fidelity by structure and view (3)" in text and "Fréchet distance (sagittal) 3.1" in text
    assert "LA has 3 mL; real cases have 31 to 97" in text and "98.0 %" in text

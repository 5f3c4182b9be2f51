"""The segmenter on one small network: learning, geometry, resume, and what it refuses."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss

from segmentation.balls import ball, balls
from voxpair.cohorts.cohort import CohortWriter
from voxpair.core.errors import InputError
from voxpair.core.labels import BRAIN4, HIPPOCAMPUS
from voxpair.core.run import RunFolder, Silent, read_log
from voxpair.core.settings import merge
from voxpair.segmentation.segmenter import (
    Segmentation,
    Segmenter,
    SegmenterSettings,
    class_weights,
    dice,
    window_probabilities,
)

SETTINGS = merge(
    SegmenterSettings(),
    {
        "backbone": {"channels": (8, 16, 16)},
        "preprocess": {"grid": (16, 16, 16)},
        "loop": {"updates": 6, "batch_size": 2, "precision": "32-true", "warmup": 0, "validate_every": None},
        "augmentation": None,
    },
    source="test",
)


def with_changes(**changes):
    return merge(SETTINGS, changes, source="test")


def new(settings=SETTINGS, table=HIPPOCAMPUS, modality="MRI"):
    return Segmenter(settings, table, modality)


class Listener(Silent):
    """Keeps what is said, and stops the process (as far as the fit can tell) after some updates."""

    def __init__(self, kill_after=None):
        self.said, self.kill_after = [], kill_after

    def say(self, message):
        self.said.append(message)

    def advance(self, steps=1, **numbers):
        if self.kill_after is not None and numbers:
            self.kill_after -= 1
            if self.kill_after == 0:
                raise KeyboardInterrupt


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohorts")
    return {
        "real": balls(folder / "real", 4),
        "validation": balls(folder / "validation", 2, first=10),
        "synthetic": balls(
            folder / "synthetic", 6, source="synthetic", manifest={"training_patients": ["real0", "real1"]}
        ),
    }


@pytest.fixture(scope="module")
def fitted(cohorts, tmp_path_factory):
    settings = with_changes(loop={"updates": 60, "learning_rate": 0.01})
    segmenter = new(settings)
    segmenter.fit(cohorts["real"], RunFolder(tmp_path_factory.mktemp("fitted")), synthetic=[cohorts["synthetic"]])
    return segmenter


def test_it_learns_balls_that_it_has_not_seen(fitted):
    case = ball("unseen", seed=99)
    scores = dice(fitted.predict(case).labels, case.labels, 3)
    assert min(scores) > 0.85


def flipped_and_thick():
    """A scan with axes stored as (S, L, A), voxels of 1 x 0.8 x 2 mm, away from the origin: 20 x 25 x 12 voxels."""
    upright = ball("scan", seed=5, shape=(25, 12, 20), affine=np.diag([0.8, 2.0, 1.0, 1.0]))
    stored = []
    for volume in (upright.image, upright.labels):
        image = nib.Nifti1Image(volume, upright.affine)
        image = image.as_reoriented(np.array([[1, -1], [2, 1], [0, 1]]))
        stored.append(np.asarray(image.dataobj))
    affine = image.affine.copy()
    affine[:3, 3] += (30, -20, 5)
    assert nib.aff2axcodes(affine) == ("S", "L", "A")
    return replace(upright, image=stored[0], labels=stored[1], affine=affine)


@pytest.mark.parametrize("fit", ["resample", "crop_or_pad"])
def test_predictions_come_back_onto_the_scan_they_are_of(cohorts, tmp_path, fit):
    """Anisotropic voxels, flipped and swapped axes, and (crop_or_pad) more voxels than the grid has."""
    preprocess = {"grid": (16, 16, 16), "fit": (fit,) * 3}
    if fit == "crop_or_pad":
        preprocess["spacing_mm"] = (1.0, 1.0, 1.0)
    segmenter = new(with_changes(preprocess=preprocess, loop={"updates": 60, "learning_rate": 0.01}))
    segmenter.fit(cohorts["real"], RunFolder(tmp_path))
    scan = flipped_and_thick()
    predicted = segmenter.predict(replace(scan, labels=None))
    assert predicted.labels.shape == scan.image.shape
    assert np.array_equal(predicted.affine, scan.affine)
    assert predicted.source == "prediction" and predicted.provenance == {"segmenter": segmenter.digest}
    assert np.array_equal(predicted.image, scan.image)
    assert min(dice(predicted.labels, scan.labels, 3)) > 0.8  # its halves differ along one axis: a flip would show


def test_labels_of_the_input_are_not_looked_at(fitted):
    case = ball("case", seed=3)
    without = fitted.predict(replace(case, labels=None))
    assert np.array_equal(fitted.predict(case).labels, without.labels)


def test_probabilities_sum_to_one(fitted):
    probabilities, geometry = fitted.probabilities(ball("case", seed=3))
    assert probabilities.shape == (3, 16, 16, 16) == (3, *geometry.grid)
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=1e-5)


def test_windows_blend_into_the_answer_of_a_network_that_looks_at_single_voxels():
    """If the network is a function of each voxel alone, no window and no blending may show."""
    network = torch.nn.Conv3d(1, 3, 1)
    image = torch.rand(21, 8, 13)
    settings = with_changes(patch=(8, 8, 8))
    found = window_probabilities(network, image, settings)
    with torch.no_grad():
        expected = network(image[None, None])[0].softmax(dim=0)
    assert torch.allclose(found, expected, atol=1e-5)


def test_saved_and_loaded_it_predicts_the_same(fitted, tmp_path):
    fitted.save(tmp_path)
    loaded = Segmenter.load(tmp_path, device="cpu")
    case = ball("case", seed=3)
    assert np.array_equal(loaded.probabilities(case)[0], fitted.probabilities(case)[0])
    assert loaded.settings == fitted.settings and loaded.label_table == fitted.label_table
    assert loaded.digest == fitted.digest == json.loads((tmp_path / "segmenter.json").read_text())["weights_sha256"]


def test_fine_tuning_begins_where_the_other_segmenter_ended(fitted, cohorts, tmp_path):
    fitted.save(tmp_path / "first")
    still = with_changes(loop={"updates": 1, "learning_rate": 1e-12, "weight_decay": 0.0})
    tuned = new(still)
    tuned.fit(cohorts["real"], RunFolder(tmp_path / "run"), start=tmp_path / "first")
    case = ball("unseen", seed=7)
    assert np.allclose(tuned.probabilities(case)[0], fitted.probabilities(case)[0], atol=1e-5)
    fresh = new(still)
    fresh.fit(cohorts["real"], RunFolder(tmp_path / "fresh"))
    assert not np.allclose(fresh.probabilities(case)[0], fitted.probabilities(case)[0], atol=0.1)
    other = new(with_changes(backbone={"channels": (8, 16, 32)}))
    with pytest.raises(InputError, match="its backbone is"):
        other.fit(cohorts["real"], RunFolder(tmp_path / "other"), start=tmp_path / "first")
    with pytest.raises(InputError, match="not from both"):
        new().fit(cohorts["real"], RunFolder(tmp_path / "both"), start=tmp_path / "first", encoder=tmp_path)


def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(cohorts, tmp_path):
    settings = with_changes(augmentation={}, loop={"checkpoint_every_s": 0, "validate_every": 2})
    arguments = {"synthetic": [cohorts["synthetic"]], "validation": cohorts["validation"]}
    whole = new(settings)
    whole.fit(cohorts["real"], RunFolder(tmp_path / "whole", seed=3), **arguments)
    with pytest.raises(KeyboardInterrupt):
        run = RunFolder(tmp_path / "cut", seed=3, progress=Listener(kill_after=3))
        new(settings).fit(cohorts["real"], run, **arguments)
    assert not any("score" in r and r["update"] > 3 for r in read_log(tmp_path / "cut" / "metrics.jsonl"))
    resumed = new(settings)
    resumed.fit(cohorts["real"], RunFolder(tmp_path / "cut", seed=3), **arguments)
    assert resumed.digest == whole.digest
    assert new(settings).digest != whole.digest


def test_validation_logs_dice_and_picks_the_best(cohorts, tmp_path):
    settings = with_changes(loop={"updates": 8, "validate_every": 2})
    result = new(settings).fit(cohorts["real"], RunFolder(tmp_path), validation=cohorts["validation"])
    records = [r for r in read_log(tmp_path / "metrics.jsonl") if "score" in r]
    assert [r["update"] for r in records] == [2, 4, 6, 8]
    for record in records:
        assert record["score"] == pytest.approx((record["dice_Anterior"] + record["dice_Posterior"]) / 2)
    assert result.best == max(r["score"] for r in records)


def test_a_tenth_of_all_pairs_judges_where_the_papers_are_followed(cohorts, tmp_path):
    settings = with_changes(validation="tenth_of_mixed", loop={"validate_every": 6})
    segmenter = new(settings)
    pairs = segmenter._prepare(cohorts["real"], [cohorts["synthetic"]], None, RunFolder(tmp_path))
    everything = set(pairs.real.names) | set(pairs.synthetic.names) | set(pairs.held_out.names)
    assert everything == {f"real{i}" for i in range(4)} | {f"synthetic{i}" for i in range(6)}
    assert len(pairs.held_out) == 1 and len(pairs.real) + len(pairs.synthetic) == 9


def test_validation_cases_without_any_structure_are_refused_before_the_fit(cohorts, tmp_path):
    writer = CohortWriter(tmp_path / "empty", HIPPOCAMPUS, "MRI")
    case = ball("empty", seed=1)
    writer.add(replace(case, labels=np.zeros_like(case.labels)))
    with pytest.raises(InputError, match=r"none of the 1 validation cases holds any structure of 'hippocampus'"):
        new().fit(cohorts["real"], RunFolder(tmp_path / "run"), validation=writer.finish())
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_unlabelled_cases_are_left_out_and_counted_aloud(tmp_path):
    real = balls(tmp_path / "cohort", 3, unlabelled=2)
    listener = Listener()
    new().fit(real, RunFolder(tmp_path / "run", progress=listener))
    assert any("2 training cases have no labels" in line for line in listener.said)
    with pytest.raises(InputError, match="none of its 2 training cases has labels"):
        new().fit(real.unlabelled(), RunFolder(tmp_path / "other"))


def test_validation_patients_that_were_trained_on_are_refused(cohorts, tmp_path):
    run = RunFolder(tmp_path)
    with pytest.raises(InputError, match=r"share 1 patients \(real1\)"):
        new().fit(cohorts["real"], run, validation=cohorts["real"].subset(["real1"]))
    with pytest.raises(InputError, match=r"synthetic .* share 1 patients \(real0\).*Fit the generator"):
        new().fit(
            cohorts["real"].subset(["real2", "real3"]),
            run,
            synthetic=[cohorts["synthetic"]],
            validation=cohorts["real"].subset(["real0"]),
        )
    with pytest.raises(InputError, match="holds synthetic cases"):
        new().fit(cohorts["real"], run, synthetic=[cohorts["synthetic"]], validation=cohorts["synthetic"])


def test_another_label_table_or_modality_is_refused(cohorts, tmp_path):
    with pytest.raises(InputError, match="label table"):
        new(table=BRAIN4).fit(cohorts["real"], RunFolder(tmp_path))
    with pytest.raises(InputError, match="is MRI, but this segmenter is for CT"):
        new(modality="CT").fit(cohorts["real"], RunFolder(tmp_path))


def test_a_patch_beyond_the_grid_or_the_network_is_refused_at_once():
    with pytest.raises(InputError, match=r"Set the patch to \(12, 12, 12\)"):
        new(with_changes(patch=(10, 12, 12)))
    with pytest.raises(InputError, match=r"patch .* is larger than"):
        new(with_changes(patch=(32, 16, 16)))


def test_a_folder_without_a_segmenter_and_a_damaged_one_are_refused(fitted, tmp_path):
    with pytest.raises(InputError, match="holds no segmenter"):
        Segmenter.load(tmp_path)
    fitted.save(tmp_path)
    weights = tmp_path / "segmenter.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match=r"segmenter\.safetensors is missing or is not the file"):
        Segmenter.load(tmp_path)
    fitted.save(tmp_path)
    content = json.loads((tmp_path / "segmenter.json").read_text())
    content["settings"]["colour"] = "blue"
    (tmp_path / "segmenter.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"segmenter\.json was written by another version"):
        Segmenter.load(tmp_path)


def test_without_weights_it_says_so(tmp_path):
    with pytest.raises(InputError, match="no weights yet"):
        new().predict(ball("case"))
    with pytest.raises(InputError, match="no weights yet"):
        new().save(tmp_path)


def test_a_rare_class_counts_more_at_first_and_like_all_others_in_the_end():
    voxels = np.array([900, 99, 1])
    early, late = class_weights(voxels, 0.5).numpy(), class_weights(voxels, 0.0).numpy()
    assert np.allclose(early[1:] / early[0], np.sqrt(900 / voxels[1:])) and np.allclose(late, 1)
    assert np.isclose((early * voxels / voxels.sum()).sum(), 1)
    assert np.isfinite(class_weights(np.array([900, 0, 100]), 1.0)).all()

    logits = torch.zeros(1, 3, 4, 4, 4)
    logits[:, 0] = 2.0  # all background
    network = torch.nn.Module()
    network.forward = lambda image: logits
    labels = torch.zeros(1, 1, 4, 4, 4, dtype=torch.long)
    labels[..., 0] = 1
    task = Segmentation(network, with_changes(rarity=0.5), HIPPOCAMPUS, None, voxels)
    losses = [
        task({"image": logits[:, :1], "labels": labels, "progress": progress}, "all")["loss"] for progress in (0.0, 1.0)
    ]
    plain = DiceCELoss(to_onehot_y=True, softmax=True)(logits, labels)
    assert losses[0] > losses[1] and torch.allclose(losses[1], plain)

"""Pre-training reads images of any cohorts, judges on patients it has not seen, and writes an encoder."""

import json

import pytest
import torch
from safetensors.torch import load_file

from segmentation.balls import ball, balls
from voxpair.cohorts.cohort import CohortWriter
from voxpair.core.errors import InputError
from voxpair.core.labels import BRAIN4, HIPPOCAMPUS
from voxpair.core.run import RunFolder, Silent, read_log
from voxpair.core.settings import merge
from voxpair.networks.backbones import build, load_encoder, read_encoder
from voxpair.pretraining.masked_modelling import PretrainSettings, held_out_patients, pretrain, reconstruction_loss
from voxpair.training.state import sha256

SETTINGS = merge(
    PretrainSettings(),
    {
        "backbone": {"channels": (4, 8, 8)},
        "preprocess": {"grid": (16, 16, 16)},
        "loop": {"updates": 6, "batch_size": 2, "precision": "32-true", "validate_every": 3},
    },
    source="test",
)


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory):
    """Real cases, some unlabelled, and synthetic ones that have another label table: images are all that counts."""
    folder = tmp_path_factory.mktemp("cohorts")
    return [
        balls(folder / "real", 5, unlabelled=3),
        balls(folder / "synthetic", 4, source="synthetic", table=BRAIN4, manifest={"training_patients": ["somebody"]}),
    ]


def test_all_images_are_used_and_the_encoder_lands_in_the_run_folder(cohorts, tmp_path):
    result = pretrain(cohorts, SETTINGS, RunFolder(tmp_path))
    assert (result.training_cases, result.validation_cases) == (8, 1)
    assert result.weights_sha256 == sha256(tmp_path / "encoder.safetensors")
    facts = json.loads((tmp_path / "encoder.json").read_text())
    assert facts["weights_sha256"] == result.weights_sha256
    assert [entry["cases"] for entry in facts["trained_on"]] == [5, 4]
    assert len(facts["patients"]) == 10 and "somebody" in facts["patients"]  # whom the generator has seen counts too
    assert not any(key.startswith("output_block") for key in load_file(tmp_path / "encoder.safetensors"))
    records = [r for r in read_log(tmp_path / "metrics.jsonl") if "score" in r]
    assert [r["update"] for r in records] == [3, 6] and all(r["score"] == -r["validation_loss"] for r in records)


def test_what_it_writes_fits_a_segmenter_of_the_same_backbone(cohorts, tmp_path):
    pretrain(cohorts[:1], SETTINGS, RunFolder(tmp_path))
    backbone, weights = read_encoder(tmp_path)
    assert backbone == SETTINGS.backbone
    network = build(backbone, 1, 5, (16, 16, 16))
    report = load_encoder(network, backbone, weights)
    assert all(torch.equal(network.state_dict()[key], weights[key]) for key in report.loaded)


def test_interrupted_and_resumed_gives_the_same_encoder(cohorts, tmp_path):
    class Kill(Silent):
        def advance(self, steps=1, **numbers):
            if numbers and "kill" not in seen and seen.append(numbers["loss"]) is None and len(seen) == 3:
                seen.append("kill")
                raise KeyboardInterrupt

    seen = []
    settings = merge(SETTINGS, {"loop": {"checkpoint_every_s": 0}}, source="test")
    whole = pretrain(cohorts, settings, RunFolder(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        pretrain(cohorts, settings, RunFolder(tmp_path / "cut", progress=Kill()))
    assert not (tmp_path / "cut" / "encoder.json").exists()
    resumed = pretrain(cohorts, settings, RunFolder(tmp_path / "cut"))
    assert resumed.weights_sha256 == whole.weights_sha256


@pytest.mark.parametrize("loss", ["hidden", "whole"])
def test_it_learns_to_paint_what_is_hidden(cohorts, tmp_path, loss):
    changes = {"loss": loss, "loop": {"updates": 40, "learning_rate": 0.01, "validate_every": 10}}
    pretrain(cohorts, merge(SETTINGS, changes, source="test"), RunFolder(tmp_path))
    losses = [r["validation_loss"] for r in read_log(tmp_path / "metrics.jsonl") if "score" in r]
    assert losses[-1] < (0.7 if loss == "hidden" else 0.7**0.5) * losses[0]  # a mean of squares, and a root of one


def test_the_papers_loss_is_the_l2_norm_of_each_volume():
    predicted, image = torch.rand(2, 1, 4, 4, 4), torch.rand(2, 1, 4, 4, 4)
    norms = torch.stack([torch.linalg.vector_norm(a - b) for a, b in zip(predicted, image)])
    found = reconstruction_loss(predicted, image, torch.zeros_like(image, dtype=torch.bool), "whole")
    assert found == pytest.approx(float(norms.mean() / 8), rel=1e-5)  # 8 = sqrt(4^3)


def test_the_loss_of_hidden_voxels_ignores_what_is_seen():
    image, hidden = torch.rand(2, 1, 4, 4, 4), torch.rand(2, 1, 4, 4, 4) < 0.3
    wrong_where_seen = torch.where(hidden, image, 9.0)
    assert reconstruction_loss(wrong_where_seen, image, hidden, "hidden") == 0
    assert reconstruction_loss(wrong_where_seen, image, hidden, "whole") > 1


def test_patients_are_held_out_whole(tmp_path):
    writer = CohortWriter(tmp_path, HIPPOCAMPUS, "MRI")
    for i in range(12):
        writer.add(ball(f"scan{i}", seed=i, patient=f"patient{i // 3}"))
    cohort = writer.finish()
    for seed in range(5):
        chosen = held_out_patients([cohort], 0.1, seed)
        assert len(chosen) == 1  # 3 of 12 scans: the least that is a tenth
    assert held_out_patients([cohort], 0.0, 0) == set()
    assert len(held_out_patients([cohort], 0.99, 0)) == 3  # one patient is always left to learn from
    assert len({frozenset(held_out_patients([cohort], 0.1, seed)) for seed in range(9)}) > 1


def test_without_validation_it_fits_all_updates(cohorts, tmp_path):
    settings = merge(SETTINGS, {"validation_fraction": 0.0}, source="test")
    result = pretrain(cohorts, settings, RunFolder(tmp_path))
    assert result.validation_cases == 0 and result.fit.best is None and result.fit.updates == 6


def test_refusals_come_before_any_work(cohorts, tmp_path):
    run = RunFolder(tmp_path)
    with pytest.raises(InputError, match=r"Set the patch to \(12, 12, 12\)"):
        pretrain(cohorts, merge(SETTINGS, {"patch": (10, 10, 10)}, source="test"), run)
    with pytest.raises(InputError, match=r"patch .* is larger than"):
        pretrain(cohorts, merge(SETTINGS, {"patch": (32, 32, 32)}, source="test"), run)
    with pytest.raises(InputError, match="no cases to pre-train on"):
        pretrain([], SETTINGS, run)
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_folder_that_is_none_or_damaged_is_refused(cohorts, tmp_path):
    with pytest.raises(InputError, match="holds no encoder"):
        read_encoder(tmp_path)
    pretrain(cohorts[:1], SETTINGS, RunFolder(tmp_path))
    path = tmp_path / "encoder.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match="missing or is not the file"):
        read_encoder(tmp_path)

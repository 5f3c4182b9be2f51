"""One contract, four networks: each pre-trains, hands its encoder on, learns, is saved, and keeps geometry."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from segmentation.balls import ball, balls
from voxpair.core.errors import InputError
from voxpair.core.run import RunFolder, read_log
from voxpair.networks.backbones import BackboneSettings, encoder_keys, read_encoder
from voxpair.pretraining.masked_modelling import PretrainSettings, pretrain
from voxpair.segmentation.segmenter import Segmenter, SegmenterSettings
from voxpair.training.loop import LoopSettings

GRIDS = {"unet3d": (16, 16, 16), "unet2d": (16, 16, 16), "unetr": (16, 16, 16), "swin_unetr": (64, 32, 32)}
CHANNELS = {"unet3d": (4, 8, 8), "unet2d": (4, 8, 8), "unetr": (8, 16), "swin_unetr": (12,)}
UPDATES = {"unet3d": 5, "unet2d": 5, "unetr": 5, "swin_unetr": 3}  # a Swin update takes a second on one core


@pytest.fixture(scope="module")
def one_case(tmp_path_factory):
    """A single annotated ball: every update sees the same batch, so the loss must fall."""
    return balls(tmp_path_factory.mktemp("cohort") / "one", 1)


@pytest.fixture(scope="module", params=sorted(GRIDS))
def made(request, one_case, tmp_path_factory):
    """An encoder pre-trained for one update, and a segmenter fitted from it."""
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    backbone = BackboneSettings(network=name, channels=CHANNELS[name])
    preprocess = {"grid": GRIDS[name]}
    loop = LoopSettings(updates=UPDATES[name], batch_size=1, learning_rate=3e-3, precision="32-true")
    pretraining = PretrainSettings(
        backbone=backbone, preprocess=preprocess, loop=loop.model_copy(update={"updates": 1}), validation_fraction=0
    )
    pretrain([one_case], pretraining, RunFolder(folder / "pretraining"))
    settings = SegmenterSettings(backbone=backbone, preprocess=preprocess, loop=loop, augmentation=None)
    segmenter = Segmenter(settings, one_case.label_table, one_case.modality)
    segmenter.fit(one_case, RunFolder(folder / "segmenter"), encoder=folder / "pretraining")
    return segmenter, folder


def test_a_few_updates_lower_the_loss_on_one_batch(made):
    losses = [record["loss"] for record in read_log(made[1] / "segmenter" / "metrics.jsonl")]
    assert losses[-1] < 0.97 * losses[0]


def test_the_fit_starts_from_the_encoder_handed_over_and_a_fresh_decoder(made, one_case, tmp_path):
    """At a vanishing learning rate the fitted weights are those it started from."""
    segmenter, folder = made
    still = segmenter.settings.loop.model_copy(update={"updates": 1, "learning_rate": 1e-30, "weight_decay": 0.0})
    states = []
    for name, encoder in (("fresh", None), ("transferred", folder / "pretraining")):
        settings = segmenter.settings.model_copy(update={"loop": still})
        start = Segmenter(settings, segmenter.label_table, segmenter.modality)
        start.fit(one_case, RunFolder(tmp_path / name), encoder=encoder)
        states.append(start.network.state_dict())
    fresh, transferred = states
    backbone, weights = read_encoder(folder / "pretraining")
    encoder = set(encoder_keys(backbone, segmenter.network))
    for key in fresh:
        expected = weights[key] if key in encoder else fresh[key]
        assert torch.allclose(transferred[key], expected, rtol=0, atol=1e-20), key
    assert any(not torch.equal(weights[key], fresh[key]) for key in encoder)


def test_prediction_keeps_shape_and_affine_and_survives_the_disk(made, tmp_path):
    segmenter = made[0]
    affine = np.array([[0, -1.5, 0, 40], [1.0, 0, 0, -8], [0, 0, -2, 3], [0, 0, 0, 1]])
    scan = replace(ball("scan", seed=1, shape=(19, 12, 9), affine=affine), labels=None)
    predicted = segmenter.predict(scan)
    assert predicted.labels.shape == scan.image.shape and np.array_equal(predicted.affine, affine)
    segmenter.save(tmp_path)
    again = Segmenter.load(tmp_path, device="cpu").predict(scan)
    assert np.array_equal(predicted.labels, again.labels) and predicted.provenance == again.provenance


def test_an_encoder_of_another_network_is_refused(made, one_case, tmp_path):
    segmenter, folder = made
    other = BackboneSettings(network="unet3d", channels=(4, 8, 16))
    settings = segmenter.settings.model_copy(update={"backbone": other})
    with pytest.raises(InputError, match=r"holds an encoder of .* Pre-train with the same backbone"):
        Segmenter(settings, segmenter.label_table, segmenter.modality).fit(
            one_case, RunFolder(tmp_path), encoder=folder / "pretraining"
        )

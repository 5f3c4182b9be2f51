"""The segmenter's encoder as an extractor: one contract over all four networks."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from segmentation.balls import ball
from voxpair.core.errors import InputError
from voxpair.core.interfaces import Extractor
from voxpair.core.labels import HIPPOCAMPUS
from voxpair.networks.backbones import BackboneSettings, encoder_features, encoder_keys
from voxpair.segmentation.features import EncoderFeatures, pool
from voxpair.segmentation.segmenter import Segmenter, SegmenterSettings

TINY = {  # channels, grid, and the shapes of the two deepest maps
    "unet3d": ((4, 6, 8), (16, 16, 16), [(6, 8, 8, 8), (8, 4, 4, 4)]),
    "unet2d": ((4, 6, 8), (16, 16, 5), [(6, 8, 8, 5), (8, 4, 4, 5)]),
    "unetr": ((4, 16), (32, 32, 32), [(16, 2, 2, 2), (16, 2, 2, 2)]),
    "swin_unetr": ((12,), (64, 32, 32), [(96, 4, 2, 2), (192, 2, 1, 1)]),
}


def segmenter(network, grid=None, patch=None):
    """An untrained one: the contract is not about what it has learnt."""
    channels, usual, _ = TINY[network]
    backbone = BackboneSettings(network=network, channels=channels)
    settings = SegmenterSettings(backbone=backbone, preprocess={"grid": grid or usual}, patch=patch)
    made = Segmenter(settings, HIPPOCAMPUS, "MRI")
    made._set(made._new_network(seed=0))
    return made


@pytest.fixture(scope="module", params=sorted(TINY))
def made(request):
    return segmenter(request.param)


def test_each_view_gives_a_finite_vector_of_its_own_the_same_every_time(made):
    extractor: Extractor = EncoderFeatures(made, "runs/baseline")
    case = ball("scan", shape=(20, 18, 16), seed=1)
    found, again = extractor.features(case), extractor.features(replace(case, labels=None))
    network = made.settings.backbone.network
    length = sum(2 * shape[0] for shape in TINY[network][2])  # mean and SD of the channels of two maps
    assert sorted(found) == ["axial", "coronal", "sagittal"]
    for view, vector in found.items():
        assert vector.shape == (length,) and vector.dtype == np.float32 and np.isfinite(vector).all()
        assert np.array_equal(vector, again[view])
    assert extractor.name == f"{network} encoder of runs/baseline" and extractor.digest == made.digest
    other = extractor.features(ball("scan", seed=2))
    assert np.abs(found["axial"] - other["axial"]).max() > 1e-4


def test_the_two_deepest_maps_come_from_the_encoder_alone(made):
    """With a decoder and a head of NaN the features stay the same."""
    network, backbone = made.network, made.settings.backbone
    image = torch.rand(1, 1, *made.settings.window, generator=torch.Generator().manual_seed(0))
    kept = {key: value.clone() for key, value in network.state_dict().items()}
    with torch.inference_mode():
        before = encoder_features(network, backbone, image)
        encoder = set(encoder_keys(backbone, network))
        spoilt = {key: value if key in encoder else torch.full_like(value, torch.nan) for key, value in kept.items()}
        network.load_state_dict(spoilt)
        after = encoder_features(network, backbone, image)
        network.load_state_dict(kept)
    assert all(torch.equal(a, b) for a, b in zip(before, after))
    assert [tuple(found.shape[1:]) for found in before] == TINY[backbone.network][2]
    assert before[0].shape != before[1].shape or not torch.equal(*before)


def test_the_deepest_map_of_a_unet_is_what_its_decoder_starts_from():
    made = segmenter("unet3d")
    seen = []
    hook = made.network.upsamples[0].register_forward_hook(lambda module, inputs, output: seen.extend(inputs))
    image = torch.rand(1, 1, 16, 16, 16)
    with torch.inference_mode():
        made.network(image)
        finer, deepest = encoder_features(made.network, made.settings.backbone, image)
    hook.remove()
    assert torch.equal(seen[0], deepest) and torch.equal(seen[1], finer)


def test_a_grid_of_several_windows_is_encoded_window_by_window():
    """Two windows along x, the second reaching beyond the grid: each equals its own forward pass, the rest is cut."""
    made = segmenter("unet3d", grid=(24, 16, 16), patch=(16, 16, 16))
    image = torch.rand(24, 16, 16, generator=torch.Generator().manual_seed(0))
    filled = torch.nn.functional.pad(image, (0, 0, 0, 0, 0, 8))
    found = EncoderFeatures(made, "here")._maps(image)
    with torch.inference_mode():
        parts = [encoder_features(made.network, made.settings.backbone, p[None, None]) for p in filled.split(16)]
    for features, shape, *expected in zip(found, [(6, 12, 8, 8), (8, 6, 4, 4)], *parts):
        assert tuple(features.shape) == shape
        assert torch.allclose(features, torch.cat([e[0] for e in expected], dim=1)[:, : shape[1]], atol=1e-6)


def test_each_view_looks_along_its_own_axis():
    ramp = torch.arange(10.0)[None, :, None, None].expand(1, 10, 4, 4)
    assert [round(float(sd), 3) for _, sd in (pool(ramp, axis) for axis in range(3))] == [1.118, 0, 0]
    assert float(pool(ramp, 0)[0]) == 4.5  # slices 3 to 6
    assert [float(value) for value in pool(torch.ones(1, 1, 1, 1), 0)] == [1, 0]


def test_a_segmenter_without_weights_is_refused():
    backbone = BackboneSettings(channels=(4, 6, 8))
    empty = Segmenter(SegmenterSettings(backbone=backbone, preprocess={"grid": (16, 16, 16)}), HIPPOCAMPUS, "MRI")
    with pytest.raises(InputError, match="runs/new has no weights yet"):
        EncoderFeatures(empty, "runs/new")

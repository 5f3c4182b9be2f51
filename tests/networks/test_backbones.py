"""Four networks, one contract: shapes in and out, legal patches, and an encoder that moves by name."""

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from voxpair.core.errors import InputError
from voxpair.networks.backbones import (
    BackboneSettings,
    build,
    check_patch,
    encoder_keys,
    head_keys,
    legal_patch,
    load_encoder,
)
from voxpair.training.state import save_weights

TINY = {  # the smallest legal network and patch of each kind
    "unet3d": (BackboneSettings(network="unet3d", channels=(4, 8, 8)), (8, 12, 8)),
    "unet2d": (BackboneSettings(network="unet2d", channels=(4, 8, 8)), (8, 12, 3)),
    "unetr": (BackboneSettings(network="unetr", channels=(4, 16)), (16, 32, 16)),
    "swin_unetr": (BackboneSettings(network="swin_unetr", channels=(12,)), (64, 32, 32)),
}
NETWORKS = sorted(TINY)


@pytest.fixture(scope="module", params=NETWORKS)
def tiny(request):
    settings, patch = TINY[request.param]
    torch.manual_seed(0)
    return settings, patch, build(settings, 1, 3, patch)


def test_output_has_a_channel_per_class_on_the_same_grid(tiny):
    _, patch, network = tiny
    with torch.inference_mode():
        assert network.eval()(torch.rand(1, 1, *patch)).shape == (1, 3, *patch)


def test_weights_go_through_safetensors(tiny, tmp_path):
    """No tensor under two names: safetensors refuses shared memory, and DynUNet as it comes has it."""
    network = tiny[2]
    save_weights(tmp_path / "weights.safetensors", network)
    assert load_file(tmp_path / "weights.safetensors").keys() == network.state_dict().keys()


def test_encoder_and_head_are_disjoint_proper_parts(tiny):
    settings, _, network = tiny
    encoder, head = set(encoder_keys(settings, network)), set(head_keys(settings, network))
    assert encoder and head and not encoder & head
    assert encoder | head < set(network.state_dict())
    assert sum(network.state_dict()[key].shape[0] == 3 for key in head) == len(head)  # 3 classes: the last layer


def test_transfer_moves_the_encoder_bit_for_bit_and_leaves_the_rest(tiny):
    settings, patch, network = tiny
    torch.manual_seed(1)
    donor = build(settings, 1, 1, patch)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    state = {key: value for key, value in donor.state_dict().items() if key not in head_keys(settings, donor)}
    report = load_encoder(network, settings, state)

    encoder = set(encoder_keys(settings, network))
    assert set(report.loaded) == encoder
    assert set(report.missing) == set(before) - encoder
    assert set(report.unexpected) == set(state) - encoder and report.unexpected
    for key, value in network.state_dict().items():
        assert torch.equal(value, state[key] if key in encoder else before[key]), key
    assert any(not torch.equal(before[key], state[key]) for key in encoder)  # the donor did differ


@pytest.mark.parametrize("damage", ["missing", "shape"])
def test_an_encoder_that_does_not_fit_is_refused_and_nothing_is_copied(damage):
    settings, patch = TINY["unet3d"]
    network, donor = build(settings, 1, 3, patch), build(settings, 1, 1, patch)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    state, key = dict(donor.state_dict()), "bottleneck.conv2.conv.weight"
    if damage == "missing":
        del state[key]
    else:
        state[key] = state[key][:-1]
    with pytest.raises(InputError, match=rf"{key}.*\(8, 8, 3, 3, 3\) here and .*same network, channels"):
        load_encoder(network, settings, state)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_unetr_of_another_patch_is_refused():
    settings, patch = TINY["unetr"]
    donor = build(settings, 1, 1, (16, 16, 16))
    with pytest.raises(InputError, match="position_embeddings"):
        load_encoder(build(settings, 1, 3, patch), settings, donor.state_dict())


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("patch", [(1, 1, 1), (33, 40, 9), (65, 64, 31)])
def test_the_patch_that_the_error_advises_is_legal_and_no_smaller(network, patch):
    settings = TINY[network][0]
    advised = legal_patch(settings, patch)
    assert all(a >= p for a, p in zip(advised, patch))
    check_patch(settings, advised)
    with pytest.raises(InputError) as caught:
        check_patch(settings, patch)
    assert str(advised) in str(caught.value)


@pytest.mark.parametrize("network", ["unet3d", "unet2d", "unetr"])
def test_the_smallest_legal_patch_trains(network):
    """Instance norm refuses a single voxel in training; the rule for patches has to know."""
    settings = TINY[network][0]
    patch = legal_patch(settings, (1, 1, 1))
    out = build(settings, 1, 2, patch).train()(torch.rand(1, 1, *patch))
    out.sum().backward()
    assert out.shape[2:] == patch


def test_a_2d_network_looks_at_each_slice_alone():
    settings, patch = TINY["unet2d"]
    torch.manual_seed(0)
    network = build(settings, 1, 3, patch).eval()
    volume = torch.rand(2, 1, *patch)
    changed = volume.clone()
    changed[1, ..., 2] = 0
    with torch.no_grad():
        difference = (network(volume) - network(changed)).abs().amax(dim=(1, 2, 3))
    assert difference[1, 2] > 0.01
    difference[1, 2] = 0
    assert torch.allclose(difference, torch.zeros_like(difference), atol=1e-5)


@pytest.mark.parametrize(
    "values",
    [
        {"network": "unet3d", "channels": (16, 32)},
        {"network": "unetr", "channels": (16, 100)},
        {"network": "unetr", "channels": (16, 32, 64)},
        {"network": "swin_unetr", "channels": (16,)},
        {"network": "unet3d", "channels": (16, 0, 32)},
    ],
)
def test_channels_that_a_network_cannot_have_are_refused_by_the_settings(values):
    with pytest.raises(ValidationError, match="channel"):
        BackboneSettings(**values)

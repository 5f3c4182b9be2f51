"""bfloat16 is taken where it is right: what a convolution learns does not depend on what lay in memory before."""

import math

import pytest
import torch
from torch import nn

from voxpair.training.precision import Conv3d, computes_bfloat16, make_fabric, mend_convolutions


def dirty_memory():
    """Leave NaN wherever memory is handed out next."""
    for count in (100, 1000, 5000, 20_000, 60_000, 130_000, 250_000):
        for kind in (torch.float32, torch.bfloat16):
            [torch.full((count,), math.nan, dtype=kind) for _ in range(4)]


def gradients(convolution, volume):
    found = []
    for _ in range(4):
        convolution.weight.grad = None
        dirty_memory()
        with torch.autocast("cpu", torch.bfloat16):
            output = convolution(volume)
        dirty_memory()
        output.float().sum().backward()
        found.append(convolution.weight.grad.clone())
    return found


@pytest.mark.skipif(not computes_bfloat16("cpu"), reason="this processor does not compute in bfloat16")
@pytest.mark.parametrize("shape", [(2, 2, 2), (2, 5, 4), (3, 2, 2), (4, 4, 4)])
def test_gradients_do_not_depend_on_what_lay_in_memory(shape):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(16, 16, 3, padding=1))
    volume = torch.rand(2, 16, *shape)
    exact = torch.autograd.grad(network(volume).sum(), network[0].weight)[0]
    mend_convolutions(network)
    first, *others = gradients(network[0], volume)
    assert torch.allclose(first, exact, rtol=0.02, atol=0.05)
    assert all(torch.equal(first, other) for other in others)


def test_mended_networks_keep_weights_names_and_values():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.Sequential(nn.Conv3d(2, 2, 1)), nn.Conv2d(1, 1, 3))
    before, volume = {key: value.clone() for key, value in network.state_dict().items()}, torch.rand(1, 1, 2, 4, 4)
    expected = network[1](network[0](volume))
    mend_convolutions(network)
    assert [type(module) for module in (network[0], network[1][0], network[2])] == [Conv3d, Conv3d, nn.Conv2d]
    assert torch.equal(network[1](network[0](volume)), expected)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_the_engine_computes_as_told():
    assert make_fabric("cpu", "32-true")._precision.precision == "32-true"
    assert make_fabric("cpu", "auto")._precision.precision == ("bf16-mixed" if computes_bfloat16("cpu") else "32-true")

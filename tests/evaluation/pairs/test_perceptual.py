"""Feature networks from a file, tested with a small one; with torchvision's own where that is installed."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy import ndimage
from torch import nn

from voxpair.core.case import Case
from voxpair.core.errors import InputError
from voxpair.core.labels import HIPPOCAMPUS
from voxpair.evaluation.pairs import fidelity, lpips
from voxpair.evaluation.pairs.perceptual import (
    ARCHITECTURES,
    Architecture,
    PerceptualFeatures,
    fill,
    read_network,
    view_slices,
)

SMALL = Architecture(
    lambda models: nn.Sequential(), taps=("1", "3"), side=16, ignored=("classifier.",), renamed=((r"^features\.", ""),)
)


def layers(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 6, 3), nn.ReLU(inplace=True))


def state(**more):
    return {f"features.{key}": value for key, value in layers().state_dict().items()} | more


def scan(seed, shape=(20, 24, 12)):
    image = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5).astype(np.float32)
    return Case(f"case{seed}", image, None, np.eye(4), HIPPOCAMPUS, patient=f"case{seed}")


@pytest.fixture
def network(tmp_path):
    torch.save(state(), tmp_path / "weights.pt")
    return fill("small", SMALL, layers(seed=1), tmp_path / "weights.pt")


# Weights


@pytest.mark.parametrize("form", ["pt", "safetensors", "nested", "parallel"])
def test_weights_are_read_from_each_usual_form(tmp_path, form):
    path = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pt")
    content = state(**{"classifier.1.weight": torch.ones(2, 6)})
    if form == "safetensors":
        save_file(content, path)
    elif form == "nested":
        torch.save({"state_dict": content}, path)
    else:
        torch.save({f"module.{k}": v for k, v in content.items()} if form == "parallel" else content, path)
    found = fill("small", SMALL, layers(seed=1), path)
    expected = layers().state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in found.layers.state_dict().items())
    assert not found.layers.training and found.linear == () and len(found.digest) == 64


def test_weights_of_another_network_are_refused_and_counted(tmp_path):
    wrong = state(**{"features.0.weight": torch.ones(4, 3, 5, 5), "head.bias": torch.ones(2)})
    del wrong["features.2.bias"]
    torch.save(wrong, tmp_path / "weights.pt")
    message = r"2 of 4 entries fit, 2 are missing or of another shape \(first \['0.weight'\]\), 1 are unexpected"
    with pytest.raises(InputError, match=message + ".*'head.bias'"):
        fill("small", SMALL, layers(), tmp_path / "weights.pt")


def test_without_torchvision_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(InputError, match=r"torchvision, which is not installed: pip install 'voxpair\[perceptual\]'"):
        read_network("imagenet_alexnet", tmp_path / "weights.pt")


def test_an_unknown_network_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(InputError, match=r"no feature network 'vgg'.*radimagenet_resnet50, imagenet_inception"):
        read_network("vgg", tmp_path / "weights.pt")


def test_radimagenets_own_names_and_torchvisions_both_fit(tmp_path, monkeypatch):
    """RadImageNet's file numbers the children of a ResNet: 0 and 1 for its first layers, 4 to 7 for its stages."""

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1, self.relu, self.maxpool = (
                nn.Conv2d(3, 2, 3),
                nn.BatchNorm2d(2),
                nn.ReLU(),
                nn.Identity(),
            )
            self.layer1, self.layer2, self.layer3, self.layer4 = (nn.Sequential(nn.Conv2d(2, 2, 1)) for _ in range(4))
            self.avgpool, self.fc = nn.Identity(), nn.Linear(2, 2)

    own = Residual()
    models = SimpleNamespace(resnet50=lambda weights: Residual())
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(models=models))
    numbered = nn.ModuleDict({"backbone": nn.Sequential(*list(own.children())[:9])})
    torch.save(numbered.state_dict(), tmp_path / "numbered.pt")
    torch.save(own.state_dict(), tmp_path / "named.pt")
    for file in ("numbered.pt", "named.pt"):
        found = read_network("radimagenet_resnet50", tmp_path / file).layers
        assert torch.equal(found.layer4[0].weight, own.layer4[0].weight), file


# Features


def test_an_extractor_keeps_its_contract_and_a_blur_is_far_from_the_floor(network):
    """16 slices of each view, mean over all places of the last layer; the same every time."""
    extractor = PerceptualFeatures(network, "MRI")
    found = extractor.features(scan(0))
    assert {view: vector.shape for view, vector in found.items()} == dict.fromkeys(fidelity.VIEWS, (6,))
    shown = view_slices(scan(0), "MRI", 16, 16)["coronal"]
    mean, std = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        expected = layers()((torch.from_numpy(shown)[:, None] - mean) / std).mean(dim=(0, 2, 3))
    assert np.allclose(found["coronal"], expected, atol=1e-6)
    real = [fidelity.describe(scan(seed), extractor) for seed in range(40)]
    blurred = [
        Case("blurred", ndimage.gaussian_filter(scan(s).image, 1.5), None, np.eye(4), HIPPOCAMPUS, patient="x")
        for s in range(100, 120)
    ]
    kid = next(m for m in fidelity.compare([fidelity.describe(c, extractor) for c in blurred], real) if m.name == "kid")
    assert kid.value > kid.floor_high and "features of small" in kid.note


def test_slices_are_those_of_the_central_two_fifths_of_each_axis():
    image = np.indices((50, 50, 50))[1].astype(np.float32)  # rises along y alone
    case = Case("ramp", image, None, np.eye(4), HIPPOCAMPUS, patient="ramp")
    found = view_slices(case, "MRI", 50, 5)
    assert all(slices.shape == (5, 50, 50) for slices in found.values())
    levels = found["coronal"].mean(axis=(1, 2))
    assert np.allclose(levels, np.linspace(0.3, 0.7, 5), atol=0.02)
    assert np.ptp(found["coronal"], axis=(1, 2)).max() < 1e-6  # constant in its plane
    assert np.ptp(found["axial"], axis=(1, 2)).min() > 0.9


# LPIPS


def test_lpips_agrees_with_its_formula_and_is_zero_for_the_same_slices(network):
    a, b = (view_slices(scan(seed), "MRI", 16, 2)["axial"] for seed in (0, 1))
    expected = 0.0
    for one, other in zip(network.maps(torch.from_numpy(a))[:2], network.maps(torch.from_numpy(b))[:2]):
        one, other = one.numpy(), other.numpy()
        for n in range(2):
            for y, x in np.ndindex(one.shape[2:]):
                u, v = one[n, :, y, x], other[n, :, y, x]
                u, v = u / (np.linalg.norm(u) + 1e-10), v / (np.linalg.norm(v) + 1e-10)
                expected += ((u - v) ** 2).sum() / (2 * one[0, 0].size)
    assert lpips.distance(network, a, b) == pytest.approx(expected, rel=1e-4)
    assert lpips.distance(network, a, a) == 0


def test_lpips_linear_weights_are_used_where_the_file_holds_them(tmp_path, network):
    linear = {f"lin{i}.model.1.weight": torch.full((1, n, 1, 1), 0.25) for i, n in enumerate((4, 6))}
    torch.save(state(**linear), tmp_path / "lpips.pt")
    weighted = fill("small", SMALL, layers(), tmp_path / "lpips.pt")
    a, b = (view_slices(scan(seed), "MRI", 16, 2)["axial"] for seed in (0, 1))
    assert lpips.distance(weighted, a, b) == pytest.approx(0.25 * lpips.distance(network, a, b), rel=1e-5)
    assert lpips.measure_name(weighted) == "lpips_small"
    assert lpips.measure_name(network) == "lpips_small_unit_weights"
    del linear["lin1.model.1.weight"]
    torch.save(state(**linear), tmp_path / "half.pt")
    with pytest.raises(InputError, match="holds 1 of LPIPS' linear weights; small needs 2, or none"):
        fill("small", SMALL, layers(), tmp_path / "half.pt")


def test_a_generator_that_repeats_itself_lies_below_the_floor(network):
    def described(*seeds):
        return [lpips.describe(scan(seed), network, "MRI") for seed in seeds]

    real, fresh = described(*range(6)), described(*range(10, 16))
    assert real[0].shape == (12, 16, 16) and real[0].dtype == np.float16
    found = lpips.compare(fresh, real, network)
    assert found.low < found.floor_high and found.floor_low < found.high
    assert lpips.compare([fresh[i == 0] for i in range(6)], real, network).value < 0.6 * found.floor
    few = lpips.compare(fresh[:2], real, network)
    assert few.value is None and "too few cases" in few.note


def test_lpips_needs_a_network_that_it_is_defined_for(tmp_path):
    torch.save(state(), tmp_path / "weights.pt")
    without = Architecture(SMALL.build, side=16, renamed=SMALL.renamed)
    with pytest.raises(InputError, match="not defined for small; choose one of imagenet_alexnet, imagenet_squeezenet"):
        lpips.measure_name(fill("small", without, layers(), tmp_path / "weights.pt"))


# torchvision's own networks


@pytest.mark.parametrize(
    ("name", "length"), [(n, 256 if "alex" in n else 512 if "squeeze" in n else 2048) for n in ARCHITECTURES]
)
def test_torchvisions_networks_are_filled_from_their_own_state_dicts(tmp_path, name, length):
    pytest.importorskip("torchvision", reason="the extra voxpair[perceptual] is not installed")
    from torchvision import models

    if name == "imagenet_inception":
        whole = models.inception_v3(weights=None, init_weights=False)
    else:
        short = {
            "radimagenet_resnet50": "resnet50",
            "imagenet_alexnet": "alexnet",
            "imagenet_squeezenet": "squeezenet1_1",
        }
        whole = getattr(models, short[name])(weights=None)
    torch.save(whole.state_dict(), tmp_path / "weights.pt")
    network = read_network(name, tmp_path / "weights.pt")
    side = network.architecture.side
    found = network.maps(torch.rand(1, side, side))
    assert found[-1].shape[1] == length and len(found) == 1 + len(network.architecture.taps)

"""Codes survive the round trip, also through noise, and their losses are 0 where they should be."""

import pytest
import torch

from voxpair.core.errors import InputError
from voxpair.generators.joint_ldm.label_codes import (
    OneHotCode,
    PaletteCode,
    inverse_root_weights,
    make_label_code,
    make_palette,
)

CODES = [("one_hot", 3), ("one_hot", 9), ("rgb", 2), ("rgb", 9), ("rgb", 30), ("rgb", 256)]


def some_classes(classes):
    return torch.randint(0, classes, (2, 5, 6, 7), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "classes"), CODES)
def test_decode_inverts_encode_also_with_noise_below_half_the_distance(name, classes):
    code, indices = make_label_code(name, classes), some_classes(classes)
    encoded = code.encode(indices)
    assert encoded.shape == (2, code.channels, 5, 6, 7) and encoded.dtype == torch.float32
    noise = torch.randn(encoded.shape, generator=torch.Generator().manual_seed(1))
    length = noise.norm(dim=1, keepdim=True)
    nearest = 2**0.5 if name == "one_hot" else float(torch.pdist(code.palette).min())
    assert torch.equal(code.decode(encoded), indices)
    assert torch.equal(code.decode(encoded + noise / length * 0.49 * nearest), indices)


@pytest.mark.parametrize(("name", "classes"), CODES)
def test_loss_falls_to_zero_at_the_truth_and_is_large_elsewhere(name, classes):
    code, indices = make_label_code(name, classes), some_classes(classes)
    perfect = code.encode(indices) * (50 if name == "one_hot" else 1)
    wrong = code.encode((indices + 1) % classes) * (50 if name == "one_hot" else 1)
    assert float(code.loss(perfect, indices)) < 0.05 < 0.1 < float(code.loss(wrong, indices))


@pytest.mark.parametrize("classes", [2, 8, 9, 27, 28, 256])
def test_palettes_are_distinct_begin_with_black_and_use_corners_first(classes):
    palette = make_palette(classes)
    assert len(palette.unique(dim=0)) == classes and not palette[0].any()
    assert palette.min() >= 0 and palette.max() <= 1
    assert ((palette[: min(8, classes)] % 1) == 0).all()


def test_a_palette_too_large_is_refused():
    with pytest.raises(InputError, match="1 to 256 classes, got 257"):
        make_palette(257)


def test_the_rgb_code_reads_a_blurred_border_as_a_third_structure_and_one_hot_does_not():
    """The flaw that makes one_hot the default: halfway from red to green lies a colour of the palette."""
    rgb, one_hot = PaletteCode(9), OneHotCode(torch.ones(9))
    mixtures = {}
    for code in (rgb, one_hot):
        third = 0
        for a in range(9):
            for b in range(a):
                ends = code.encode(torch.tensor([a, b]).reshape(1, 2, 1, 1))[..., 0, 0]
                path = torch.lerp(ends[..., :1], ends[..., 1:], torch.linspace(0, 1, 101))[..., None, None]
                third += int((~torch.isin(code.decode(path), torch.tensor([a, b]))).sum())
        mixtures[code] = third
    assert mixtures[one_hot] == 0 < mixtures[rgb]


def test_weights_fall_with_the_root_of_the_volume_and_absent_classes_stay_finite():
    weights = inverse_root_weights(torch.tensor([900, 100, 0]))
    assert weights.mean() == pytest.approx(1) and float(weights[1] / weights[0]) == pytest.approx(3)
    assert torch.isfinite(weights).all()


def test_rare_classes_weigh_more_in_the_loss():
    weights = inverse_root_weights(torch.tensor([9000, 10]))
    indices = torch.zeros(1, 10, 10, 10, dtype=torch.long)
    indices[0, 0, 0, :5] = 1
    flat = torch.zeros(1, 2, 10, 10, 10)
    flat[:, 0] = 4  # "all background"
    assert OneHotCode(weights).loss(flat, indices) > 0.4 + OneHotCode(torch.ones(2)).loss(flat, indices)

"""Pairs stay pairs, and each augmentation does what it says and nothing else."""

import math

import pytest
import torch
from pydantic import ValidationError

from voxpair.cohorts.augment import (
    GeometricJitter,
    JitterSettings,
    PaperAugmentation,
    PaperSettings,
    SpatialIntensityAugmentation,
    SpatialIntensitySettings,
    rotation,
)

AUGMENTATIONS = [
    PaperAugmentation(),
    SpatialIntensityAugmentation(SpatialIntensitySettings(flip_axes=(0, 1))),
    GeometricJitter(JitterSettings(probability=1, flip=0.5)),
]
INTENSITY_CHANGES = ("gamma", "brightness", "noise", "blur", "shading")
OFF = {"spatial": 0} | {f"{change}_probability": 0 for change in INTENSITY_CHANGES}
ONLY_SPACE = SpatialIntensitySettings(**OFF | {"spatial": 1})
STILL = {"smallest_crop": 1, "flip": 0, "boost": 0}


def positions_mm(shape, spacing_mm=(1.0, 1.0, 1.0)):
    """(X, Y, Z, 3) millimetres from the centre."""
    axes = [(torch.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing_mm)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)


def pair(shape=(20, 24, 16)):
    """A big ellipsoid with a ball in it, image = labels / 2."""
    p = positions_mm(shape)
    labels = ((p / torch.tensor(shape) * 2.8).norm(dim=-1) < 1).to(torch.uint8)
    labels[(p - torch.tensor([2.0, -2, 1])).norm(dim=-1) < 3.5] = 2
    return labels[None].float() / 2, labels[None]


def noise(shape=(6, 5, 4), seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.rand(1, *shape, generator=random), torch.randint(0, 3, (1, *shape), generator=random)


def centroid_mm(image, spacing_mm):
    return (image[0][..., None] * positions_mm(image.shape[1:], spacing_mm)).sum((0, 1, 2)) / image.sum()


def balls(shape, centre, spacing_mm, width_mm=3.0):
    distance = (positions_mm(shape, spacing_mm) - torch.tensor(centre)).norm(dim=-1)
    return torch.exp(-((distance / width_mm) ** 2))[None]


@pytest.mark.parametrize("augment", AUGMENTATIONS, ids=lambda a: type(a).__name__)
def test_same_seed_same_result_and_shapes_types_and_range_are_kept(augment):
    image, labels = pair()
    for seed in range(5):
        first, again = augment(image, labels, seed), augment(image, labels, seed)
        assert all(torch.equal(a, b) for a, b in zip(first, again))
        assert first[0].shape == image.shape and first[0].dtype == torch.float32
        assert first[1].shape == labels.shape and first[1].dtype == torch.uint8
        assert first[0].min() >= 0 and first[0].max() <= 1
        assert set(first[1].unique().tolist()) <= {0, 1, 2}
    assert not torch.equal(augment(image, labels, 1)[0], augment(image, labels, 2)[0])


@pytest.mark.parametrize(
    "augment",
    [
        PaperAugmentation(PaperSettings(boost=0, flip=0.5)),
        SpatialIntensityAugmentation(ONLY_SPACE.model_copy(update={"flip_axes": (0, 2)})),
        GeometricJitter(JitterSettings(probability=1, flip=0.5)),
    ],
    ids=lambda a: type(a).__name__,
)
def test_pairs_stay_aligned(augment):
    image, labels = pair((28, 32, 24))
    for seed in range(8):
        moved, moved_labels, *_ = augment(image, labels, seed, (1.0, 1.3, 1.6))
        inside = (moved * 2).round()  # image = labels / 2; blurred only where classes touch
        assert (inside == moved_labels).float().mean() > 0.98
        assert (moved - moved_labels / 2).abs().max() <= 0.75  # never the wrong side of a border by a voxel


def test_the_boost_is_50_hu_of_3000_and_stays_within_the_window():
    image, labels = noise()
    boosted, _ = PaperAugmentation(PaperSettings(**STILL | {"boost": 1}))(image, labels, 0)
    torch.testing.assert_close(boosted, (image + 50 / 3000).clamp(max=1))
    torch.testing.assert_close(PaperAugmentation(PaperSettings(**STILL))(image, labels, 0), (image, labels))


def test_the_papers_flips_and_boost_happen_as_often_as_they_say():
    image, labels = noise((2, 2, 2))
    augment = PaperAugmentation(PaperSettings(smallest_crop=1))
    x = y = both = boost = 0
    for seed in range(2000):
        moved, moved_labels = augment(image, labels, seed)
        lifted = bool((moved.sum() - image.sum()).abs() > 1e-3)
        base = image + lifted * 50 / 3000
        options = {(): base, (1,): base.flip(1), (2,): base.flip(2), (1, 2): base.flip(1, 2)}
        (axes,) = [k for k, v in options.items() if torch.allclose(v.clamp(max=1), moved, atol=1e-6)]
        assert torch.equal(moved_labels, labels.flip(axes) if axes else labels)
        x, y, both, boost = x + (1 in axes), y + (2 in axes), both + (axes == (1, 2)), boost + lifted
    for found, probability in ((x, 0.2), (y, 0.2), (both, 0.04), (boost, 0.05)):
        assert abs(found / 2000 - probability) < 4 * math.sqrt(probability * (1 - probability) / 2000)


def test_the_papers_crop_enlarges_in_plane_only():
    ramp = torch.linspace(0, 1, 12)
    augment = PaperAugmentation(PaperSettings(**STILL | {"smallest_crop": 0.5}))
    for axis in range(3):
        image = ramp.reshape([1, *(12 if a == axis else 1 for a in range(3))]).expand(1, 12, 12, 12)
        moved, _ = augment(image, torch.zeros(1, 12, 12, 12, dtype=torch.uint8), seed=4)
        span = float((moved.max() - moved.min()) / (ramp[-1] - ramp[0]))
        assert span == pytest.approx(1, abs=1e-5) if axis == 2 else span < 0.9


def test_no_strength_no_change():
    image, labels = noise()
    moved, moved_labels = SpatialIntensityAugmentation(SpatialIntensitySettings(**OFF))(image, labels, 0)
    assert torch.equal(moved, image) and torch.equal(moved_labels, labels)


@pytest.mark.parametrize("change", INTENSITY_CHANGES)
def test_each_change_of_intensity_leaves_the_labels_alone(change):
    off = dict.fromkeys(
        ("spatial", *(f"{c}_probability" for c in ("gamma", "brightness", "noise", "blur", "shading"))), 0
    )
    settings = SpatialIntensitySettings(**off | {f"{change}_probability": 1})
    image, labels = noise((12, 12, 12))
    image = 0.3 + 0.4 * image  # away from the ends of the window, where values are clipped
    moved, moved_labels = SpatialIntensityAugmentation(settings)(image, labels, 3)
    assert torch.equal(moved_labels, labels)
    difference = moved - image
    assert difference.abs().max() > 1e-3
    if change in ("gamma", "brightness"):  # a rising function of the value alone
        order = image.flatten().argsort()
        assert (moved.flatten()[order].diff() >= 0).all()
    if change == "blur":
        assert moved.std() < 0.8 * image.std()
        flat, _ = SpatialIntensityAugmentation(settings)(torch.full_like(image, 0.5), labels, 3)
        assert torch.allclose(flat, torch.tensor(0.5))  # no dark frame: the border is not blurred with nothing
    if change == "noise":
        assert abs(difference.mean()) < 4 * difference.std() / math.sqrt(difference.numel())
    if change == "shading":
        assert (moved / image).max() <= 1.3 + 1e-5 and (moved / image).min() >= 0.7 - 1e-5


def test_zero_vector_changes_nothing_at_all():
    image, labels = noise()
    moved = GeometricJitter().apply(image, labels, torch.zeros(8))
    assert torch.equal(moved[0], image) and torch.equal(moved[1], labels)


def test_flip_mirrors_left_and_right_exactly():
    image, labels = noise()
    vector = torch.zeros(8)
    vector[7] = 1
    moved, moved_labels = GeometricJitter().apply(image, labels, vector)
    assert torch.equal(moved, image.flip(1)) and torch.equal(moved_labels, labels.flip(1))


@pytest.mark.parametrize("vector", [[0.5, 0, 0], [0, -1, 0], [0, 0, 1], [0.7, -0.4, 0.9]])
@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.8, 1.1, 2.0)])
def test_jitter_moves_landmarks_where_its_vector_says_in_millimetres(vector, spacing_mm):
    shape, settings = (40, 36, 28), JitterSettings(rotation_degrees=30, scale=1.3, translation=0.1)
    start = [5.0, -4.0, 2.0]
    full = torch.tensor([*vector, 0.6, 0.3, -0.5, 0.2, 0.0])
    image = balls(shape, start, spacing_mm)
    moved, _ = GeometricJitter(settings).apply(image, torch.zeros(1, *shape, dtype=torch.uint8), full, spacing_mm)
    extent = torch.tensor([n * s for n, s in zip(shape, spacing_mm)])
    angles = [math.radians(30) * v for v in vector]
    expected = 1.3**0.6 * rotation(angles) @ torch.tensor(start) + torch.tensor([0.3, -0.5, 0.2]) * 0.1 * extent
    found = centroid_mm(moved.where(moved > 0.01, 0), spacing_mm)
    assert torch.all((found - expected).abs() < 0.1 * torch.tensor(spacing_mm))
    assert moved.sum() / image.sum() == pytest.approx(1.3 ** (0.6 * 3), rel=0.03)


def test_rotation_turns_counter_clockwise_about_x_then_y_then_z():
    quarter = math.pi / 2
    x, y, z = torch.eye(3)
    torch.testing.assert_close(rotation([0, 0, quarter]) @ x, y)
    torch.testing.assert_close(rotation([quarter, 0, 0]) @ y, z)
    torch.testing.assert_close(rotation([0, quarter, 0]) @ z, x)
    torch.testing.assert_close(rotation([quarter, 0, quarter]) @ y, z)  # x first; z first would give -x


def test_vectors_are_normalised_and_zero_as_often_as_they_say():
    jitter = GeometricJitter(JitterSettings(probability=0.3, flip=0.1))
    vectors = torch.stack([jitter.draw(seed) for seed in range(2000)])
    assert vectors.shape == (2000, jitter.vector_length) and vectors.dtype == torch.float32
    assert vectors.abs().max() <= 1
    assert set(vectors[:, 7].tolist()) == {0.0, 1.0}
    groups = {"rotation": slice(0, 3), "scale": slice(3, 4), "translation": slice(4, 7)}
    drawn = torch.stack([vectors[:, part].any(1) for part in groups.values()], 1).float()
    margin = 4 * math.sqrt(0.3 * 0.7 / 2000)
    assert torch.all((drawn.mean(0) - 0.3).abs() < margin)
    assert abs(vectors[:, 7].mean() - 0.1) < margin
    assert abs((vectors == 0).all(1).float().mean() - 0.7**3 * 0.9) < margin


def test_jitter_returns_the_vector_that_it_applied():
    image, labels = pair()
    jitter = GeometricJitter(JitterSettings(probability=1))
    moved, moved_labels, vector = jitter(image, labels, 5, (1.0, 1.0, 2.0))
    again, labels_again = jitter.apply(image, labels, vector, (1.0, 1.0, 2.0))
    assert torch.equal(moved, again) and torch.equal(moved_labels, labels_again)
    assert torch.equal(vector, jitter.draw(5))


@pytest.mark.parametrize(
    "kind, bad", [(PaperSettings, {"flip": 1.2}), (JitterSettings, {"scale": 0.5}), (PaperSettings, {"flipp": 0.1})]
)
def test_nonsense_is_refused(kind, bad):
    with pytest.raises(ValidationError):
        kind(**bad)

"""Augmentation: the papers' list, a strong one for segmentation, and one that a generator cannot copy.

Takes an image in [0, 1] and its class indices; gives the same, changed alike. All randomness comes from ``seed``.

    class                           for                changes
    PaperAugmentation               reproduction       crop, flips, +50 HU; a generator learns to make mirrored hearts
    SpatialIntensityAugmentation    segmentation       rotation, scale, shear, elastic; gamma, noise, blur, shading
    GeometricJitter                 generators         rotation, scale, translation, flip, with the vector that says so

Space is resampled once per volume: images linearly, each class softly with the largest winning; what comes in from
outside is a mirror image. Angles are true in millimetres: ``spacing_mm`` says how wide the voxels are.

Sources: Ikuta et al. 2024 and Hu et al. 2024, section 3.2, for the papers' list; Karras et al. 2022 (EDM),
appendix F.2, for the idea of telling the denoiser what was done and asking for nothing when sampling.

Shapes: X Y Z volume axes (right, anterior, superior); images (1, X, Y, Z) float32, labels (1, X, Y, Z) integer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Protocol

import torch
import torch.nn.functional as F
from pydantic import Field
from scipy import ndimage
from torch import Generator, Tensor

from voxpair.core.settings import Settings

Probability = Annotated[float, Field(ge=0, le=1)]
Triple = tuple[float, float, float]
CUBE: Triple = (1.0, 1.0, 1.0)


class Augmentation(Protocol):
    """What :func:`voxpair.cohorts.datasets.draw` calls; :class:`GeometricJitter` adds a third value, its vector."""

    def __call__(self, image: Tensor, labels: Tensor, seed: int, spacing_mm: Triple = CUBE) -> tuple[Tensor, ...]: ...


class PaperSettings(Settings):
    """The augmentation of the papers' generator.

    Attributes:
        smallest_crop: side of the random crop in x and y as a fraction of the volume; drawn between this and 1.
            The papers give no number.
        flip: probability of a flip along x ("horizontal"), and independently along y ("vertical").
        boost: probability of adding ``boost_hu`` to the whole volume.
        window_hu: width of the intensity window in HU, which [0, 1] stands for.
    """

    smallest_crop: float = Field(0.8, gt=0, le=1)
    flip: Probability = 0.2
    boost: Probability = 0.05
    boost_hu: float = 50.0
    window_hu: float = Field(3000.0, gt=0)


@dataclass(frozen=True)
class PaperAugmentation:
    """The papers' list, letter by letter: a crop at a random place resized back in x and y, flips, +50 HU.

    36 % of the volumes come out mirrored or upside down, and a generator without a condition learns to make
    such hearts: :class:`GeometricJitter` does not have this fault.
    """

    settings: PaperSettings = field(default_factory=PaperSettings)

    def __call__(self, image: Tensor, labels: Tensor, seed: int, spacing_mm: Triple = CUBE) -> tuple[Tensor, Tensor]:
        random = _generator(seed)
        s = self.settings
        image, labels = self._cropped(image, labels, random)
        for axis in (1, 2):
            if _happens(s.flip, random):
                image, labels = image.flip(axis), labels.flip(axis)
        if _happens(s.boost, random):
            image = (image + s.boost_hu / s.window_hu).clamp(max=1)
        return image, labels

    def _cropped(self, image: Tensor, labels: Tensor, random: Generator) -> tuple[Tensor, Tensor]:
        side = _uniform(self.settings.smallest_crop, 1, random)
        size = [max(1, round(side * n)) for n in image.shape[1:3]]
        start = [_integer(n - m + 1, random) for n, m in zip(image.shape[1:3], size)]
        window = (slice(None), *(slice(a, a + m) for a, m in zip(start, size)))
        return _move(image[window], labels[window], lambda volumes: _resize(volumes, image.shape[1:]))


class SpatialIntensitySettings(Settings):
    """Strength of the augmentation for segmentation; ranges are symmetric about "no change".

    Attributes:
        spatial: probability of any change of space; the others are probabilities of one change of intensity each.
        rotation_degrees: largest angle about each axis.
        scale: largest factor, drawn between 1 / scale and scale, with an equal chance to grow and to shrink.
        shear: largest shear of one axis along another.
        elastic_mm: standard deviation of a smooth displacement; 0 for none.
        elastic_cells: control points per axis of that displacement.
        flip_axes: axes (0, 1, 2 for x, y, z) mirrored with probability 1/2; none by default, since bodies have sides.
        gamma: largest exponent, drawn between 1 / gamma and gamma; mean and deviation of the volume are kept.
        brightness, contrast: largest shift in units of the window (0.05 of 3000 HU are 150 HU), and largest relative
            change about the mean.
        noise: largest standard deviation of white noise, in units of the window.
        blur_voxels: largest sigma of a Gaussian blur.
        shading: largest relative amplitude of a smooth multiplicative field, such as a coil's.
    """

    spatial: Probability = 0.8
    rotation_degrees: float = Field(15.0, ge=0, le=180)
    scale: float = Field(1.2, ge=1)
    shear: float = Field(0.05, ge=0, lt=1)
    elastic_mm: float = Field(1.0, ge=0)
    elastic_cells: int = Field(5, ge=2)
    flip_axes: tuple[Annotated[int, Field(ge=0, le=2)], ...] = ()
    gamma_probability: Probability = 0.3
    gamma: float = Field(1.5, ge=1)
    brightness_probability: Probability = 0.3
    brightness: float = Field(0.05, ge=0)
    contrast: float = Field(0.25, ge=0, lt=1)
    noise_probability: Probability = 0.2
    noise: float = Field(0.03, ge=0)
    blur_probability: Probability = 0.2
    blur_voxels: float = Field(1.0, gt=0)
    shading_probability: Probability = 0.2
    shading: float = Field(0.3, ge=0, lt=1)


@dataclass(frozen=True)
class SpatialIntensityAugmentation:
    """Changes a segmenter should not care about, in the spirit of nnU-Net's list; space in one resampling."""

    settings: SpatialIntensitySettings = field(default_factory=SpatialIntensitySettings)

    def __call__(self, image: Tensor, labels: Tensor, seed: int, spacing_mm: Triple = CUBE) -> tuple[Tensor, Tensor]:
        random = _generator(seed)
        if _happens(self.settings.spatial, random):
            grid = self._grid(image.shape[1:], spacing_mm, random)
            image, labels = _move(image, labels, lambda volumes: _warp(volumes, grid))
        for axis in self.settings.flip_axes:
            if _happens(0.5, random):
                image, labels = image.flip(axis + 1), labels.flip(axis + 1)
        return self._intensity(image, random), labels

    def _grid(self, shape: tuple[int, ...], spacing_mm: Triple, random: Generator) -> Tensor:
        s = self.settings
        angles = [math.radians(_uniform(-s.rotation_degrees, s.rotation_degrees, random)) for _ in range(3)]
        zoom = s.scale ** _uniform(-1, 1, random)
        shear = torch.eye(3)
        for i, j in ((0, 1), (0, 2), (1, 2)):
            shear[i, j] = _uniform(-s.shear, s.shear, random)
        grid = _affine_grid(zoom * rotation(angles) @ shear, torch.zeros(3), shape, spacing_mm)
        if s.elastic_mm:
            coarse = torch.randn(1, 3, *[s.elastic_cells] * 3, generator=random) * s.elastic_mm
            smooth = F.interpolate(coarse, size=tuple(shape), mode="trilinear", align_corners=True)
            half_width = torch.tensor([n * w / 2 for n, w in zip(shape, spacing_mm)])
            grid = grid + (smooth[0].movedim(0, -1) / half_width).flip(-1)
        return grid

    def _intensity(self, image: Tensor, random: Generator) -> Tensor:
        s = self.settings
        if _happens(s.blur_probability, random):
            sigma = _uniform(0.3, 1, random) * s.blur_voxels
            # SciPy mirrors at the border; MONAI's filter takes what lies outside for black, and gives a dark frame.
            image = torch.from_numpy(ndimage.gaussian_filter(image.numpy(), (0, sigma, sigma, sigma)))
        if _happens(s.shading_probability, random):
            coarse = torch.empty(1, 1, 3, 3, 3).uniform_(-s.shading, s.shading, generator=random)
            image = image * (1 + F.interpolate(coarse, size=image.shape[1:], mode="trilinear", align_corners=True)[0])
        if _happens(s.brightness_probability, random):
            gain, mean = 1 + _uniform(-s.contrast, s.contrast, random), image.mean()
            image = (image - mean) * gain + mean + _uniform(-s.brightness, s.brightness, random)
        if _happens(s.gamma_probability, random):
            bent = image.clamp(0, 1) ** (s.gamma ** _uniform(-1, 1, random))
            # in a window of 3000 HU the exponent alone would move blood by hundreds of HU: keep mean and deviation
            image = (bent - bent.mean()) * (image.std() / bent.std().clamp(min=1e-6)) + image.mean()
        if _happens(s.noise_probability, random):
            image = image + torch.randn(image.shape, generator=random) * _uniform(0, s.noise, random)
        return image.clamp(0, 1)


class JitterSettings(Settings):
    """Ranges of the geometric augmentation of generators.

    Attributes:
        probability: of each of rotation, scale and translation, independently.
        rotation_degrees: largest angle about each axis.
        scale: largest factor, drawn between 1 / scale and scale.
        translation: largest shift as a fraction of each axis.
        flip: probability of mirroring left and right; 0 for never.
    """

    probability: Probability = 0.5
    rotation_degrees: float = Field(10.0, gt=0, le=180)
    scale: float = Field(1.15, gt=1)
    translation: float = Field(0.05, gt=0, lt=1)
    flip: Probability = 0.0


@dataclass(frozen=True)
class GeometricJitter:
    """Moves a pair and says how, so that a generator fitted on moved pairs can be asked for unmoved ones.

    The vector is a condition of the denoiser; all zeros mean "not moved", which is asked for when sampling.

        entry   0 1 2                        3                    4 5 6                  7
        means   angles about x y z           log of the scale     shift along x y z      1 if mirrored
        unit    ``rotation_degrees``         log of ``scale``     ``translation``

    >>> GeometricJitter().vector_length
    8
    """

    settings: JitterSettings = field(default_factory=JitterSettings)
    vector_length: ClassVar[int] = 8

    def __call__(
        self, image: Tensor, labels: Tensor, seed: int, spacing_mm: Triple = CUBE
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the moved pair and the vector that moved it."""
        vector = self.draw(seed)
        return *self.apply(image, labels, vector, spacing_mm), vector

    def draw(self, seed: int) -> Tensor:
        """Return a vector of shape (8,), each entry in [-1, 1]."""
        random = _generator(seed)
        vector = torch.zeros(self.vector_length)
        for part in (slice(0, 3), slice(3, 4), slice(4, 7)):
            values = torch.empty(part.stop - part.start).uniform_(-1, 1, generator=random)
            if _happens(self.settings.probability, random):
                vector[part] = values
        vector[7] = float(_happens(self.settings.flip, random))
        return vector

    def apply(self, image: Tensor, labels: Tensor, vector: Tensor, spacing_mm: Triple = CUBE) -> tuple[Tensor, Tensor]:
        """Return the pair mirrored, then rotated and scaled about the centre, then shifted as ``vector`` says.

        Without rotation, scale and shift nothing is resampled: zeros return the very same values.
        """
        if vector[7]:
            image, labels = image.flip(1), labels.flip(1)
        if not vector[:7].any():
            return image, labels
        s = self.settings
        shape = image.shape[1:]
        angles = [math.radians(s.rotation_degrees) * float(a) for a in vector[:3]]
        shift_mm = vector[4:7] * s.translation * torch.tensor([n * w for n, w in zip(shape, spacing_mm)])
        grid = _affine_grid(s.scale ** float(vector[3]) * rotation(angles), shift_mm, shape, spacing_mm)
        return _move(image, labels, lambda volumes: _warp(volumes, grid))


def rotation(angles: list[float]) -> Tensor:
    """Return the (3, 3) matrix that turns about x, then y, then z by ``angles`` in radians, counter-clockwise."""
    matrix = torch.eye(3, dtype=torch.float64)
    for axis, angle in enumerate(angles):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = torch.eye(3, dtype=torch.float64)
        turn[i, i] = turn[j, j] = math.cos(angle)
        turn[i, j], turn[j, i] = -math.sin(angle), math.sin(angle)
        matrix = turn @ matrix
    return matrix.float()


def _affine_grid(matrix: Tensor, shift_mm: Tensor, shape: tuple[int, ...], spacing_mm: Triple) -> Tensor:
    """Return torch's sampling grid (X, Y, Z, 3) for content moved to ``matrix @ position + shift_mm``.

    Positions are millimetres from the centre. Torch wants, for each output voxel, where it comes from
    (so the inverse), in units of half the volume's width, and the axes counted from the last.
    """
    half_width = torch.tensor([n * w / 2 for n, w in zip(shape, spacing_mm)], dtype=torch.float64)
    inverse = torch.linalg.inv(matrix.double())
    linear = inverse * half_width / half_width[:, None]
    shift = -(inverse @ shift_mm.double()) / half_width
    theta = torch.cat([linear.flip(0, 1), shift.flip(0)[:, None]], 1).float()
    return F.affine_grid(theta[None], (1, 1, *shape), align_corners=False)[0]


def _warp(volumes: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(volumes[None], grid[None], mode="bilinear", padding_mode="reflection", align_corners=False)[0]


def _resize(volumes: Tensor, shape: tuple[int, ...]) -> Tensor:
    return F.interpolate(volumes[None], size=tuple(shape), mode="trilinear", align_corners=False)[0]


def _move(image: Tensor, labels: Tensor, how: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Apply a linear map of space to the image and to each class's indicator; the largest indicator wins.

    On turned balls this keeps about 2 Dice points more than taking the nearest label.
    """
    present = labels.unique()
    indicators = (labels == present.reshape(-1, 1, 1, 1)).to(image.dtype)
    moved = how(torch.cat([image, indicators]))
    winner = moved[1:].max(0, keepdim=True).indices  # the same as argmax, which takes nine times as long on a CPU
    return moved[:1].clamp(0, 1), present[winner]  # interpolation overshoots by rounding errors


def _generator(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def _uniform(low: float, high: float, random: Generator) -> float:
    return low + (high - low) * torch.rand((), generator=random, dtype=torch.float64).item()


def _integer(count: int, random: Generator) -> int:
    return int(torch.randint(count, (), generator=random))


def _happens(probability: float, random: Generator) -> bool:
    return _uniform(0, 1, random) < probability

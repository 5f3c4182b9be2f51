"""Phantom hearts as cases: settings, drawing of patients, rendering, and a stream of cases.

In: :class:`PhantomSettings`, a seed, an index. Out: :class:`~voxpair.core.case.Case` with image (HU), the eight
labels, attributes (sex, contrast, metal, scan range, volumes) and every parameter as provenance.
Case *i* depends on (settings, seed, i) alone.

A phantom shows that a method works as built; it says nothing about clinical validity.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, Literal

import numpy as np
from pydantic import Field, PositiveFloat, field_validator

from voxpair.core.case import Case
from voxpair.core.errors import InputError
from voxpair.core.labels import CARDIAC8, THORAX7
from voxpair.core.run import derive_seed
from voxpair.core.settings import Settings
from voxpair.phantom.acquisition import SATURATION_HU, Kernel, add_metal, blur, composite, noise
from voxpair.phantom.anatomy import HeartParameters
from voxpair.phantom.annotation import AnnotationSettings, as_drawn, outlined_layers, pulmonary_shift
from voxpair.phantom.contrast import check_state
from voxpair.phantom.cycle import chamber_volumes
from voxpair.phantom.layers import label_map, region_map
from voxpair.phantom.population import draw_anatomy
from voxpair.phantom.scene import Scene, build_scene

_FIELD_CENTRE_MM = np.array([8.0, -5.0, -6.0])

Labels = Literal["expert", "clean", "thorax"]


class PhantomSettings(Settings):
    """A cohort of phantom hearts.

    Args:
        grid: voxels along right, front and head.
        field_of_view_mm: extent along the same axes of a scan of the heart alone.
        arch_extra_mm: how much farther towards the head a scan up to the arch reaches, on the same grid.
        kernel: reconstruction kernel: resolution and texture of the noise.
        noise_hu: standard deviation of the noise.
        contrast: state to probability; the probabilities need not add up to one.
        women: probability of a woman.
        lead, wires: probability of a pacemaker lead and of wires in the sternum.
        up_to_arch: probability of a scan that reaches the aortic arch.
        labels: ``expert`` as a reader draws the eight structures, ``clean`` as they are, ``thorax`` the seven organs of
            ``THORAX7`` (always as they are).
        annotation: how the reader differs from the truth.

    >>> PhantomSettings(grid=(32, 32, 32)).kernel
    'standard'
    """

    grid: tuple[int, int, int] = (64, 64, 64)
    field_of_view_mm: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (190.0, 190.0, 155.0)
    arch_extra_mm: float = Field(40.0, ge=0)
    kernel: Kernel = "standard"
    noise_hu: float = Field(25.0, ge=0)
    contrast: dict[str, float] = Field(
        default_factory=lambda: {"arterial": 0.6, "mixed": 0.2, "late_venous": 0.1, "non_contrast": 0.1}
    )
    women: float = Field(0.5, ge=0, le=1)
    lead: float = Field(0.08, ge=0, le=1)
    wires: float = Field(0.07, ge=0, le=1)
    up_to_arch: float = Field(0.3, ge=0, le=1)
    labels: Labels = "expert"
    annotation: AnnotationSettings = AnnotationSettings()

    @field_validator("grid")
    @classmethod
    def _enough_voxels(cls, grid: tuple[int, int, int]) -> tuple[int, int, int]:
        if min(grid) < 8:
            raise ValueError(f"a phantom needs at least 8 voxels along each axis, got {grid}")
        return grid

    @field_validator("contrast")
    @classmethod
    def _known_states(cls, contrast: dict[str, float]) -> dict[str, float]:
        for state, share in contrast.items():
            try:
                check_state(state)
            except InputError as error:
                raise ValueError(str(error)) from None
            if share < 0:
                raise ValueError(f"the probability of {state!r} must not be negative, got {share}")
        if sum(contrast.values()) <= 0:
            raise ValueError("at least one contrast state needs a probability above 0")
        return contrast


def draw_parameters(seed: int, index: int, settings: PhantomSettings) -> HeartParameters:
    """Draw patient ``index`` of the cohort named ``seed``; other patients have no influence."""
    rng = np.random.default_rng(derive_seed("phantom", seed, index))
    shares = np.array(list(settings.contrast.values()), float)
    sex = "F" if rng.uniform() < settings.women else "M"
    contrast = list(settings.contrast)[int(rng.choice(len(shares), p=shares / shares.sum()))]
    chance = rng.uniform()
    metal = "lead" if chance < settings.lead else "wires" if chance < settings.lead + settings.wires else "no"
    scan_range = "up_to_arch" if rng.uniform() < settings.up_to_arch else "cardiac"
    return draw_anatomy(rng, sex=sex, contrast=contrast, metal=metal, scan_range=scan_range)


def render(parameters: HeartParameters, settings: PhantomSettings) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scan one patient.

    Returns:
        image: (X, Y, Z) float32 HU, within the scanner's 12 bits.
        labels: (X, Y, Z) uint8 values of ``CARDIAC8`` (of ``THORAX7`` for thorax labels); 0 is background.
        affine: (4, 4), voxel index to RAS+ millimetres.

    Raises:
        InputError: the parameters contradict each other.
    """
    p = parameters
    axes = _voxel_axes(p, settings)
    spacing_mm = np.array([axis[1] - axis[0] for axis in axes])
    scene = build_scene(axes, p)
    image, _ = composite(scene.layers, spacing_mm)
    labels = _labels(scene, axes, p, settings)
    rng = np.random.default_rng([p.detail_seed, 5])
    if scene.metal is not None:
        image = add_metal(image, scene.metal, spacing_mm, rng)
    image = blur(image, spacing_mm, settings.kernel)
    image += noise(image.shape, spacing_mm, settings.kernel, settings.noise_hu, rng)
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = [axis[0] for axis in axes]
    return np.clip(image, -1024, SATURATION_HU).astype(np.float32), labels, affine


def heart_case(settings: PhantomSettings, seed: int, index: int) -> Case:
    """Return case ``index`` of the cohort named ``seed``, for example ``heart_0007``.

    Its attributes are sex, contrast, metal, scan_range and ``volume_LV_ml`` … of the labels in the field of view.
    """
    parameters = draw_parameters(seed, index, settings)
    image, labels, affine = render(parameters, settings)
    name = f"heart_{index:04d}"
    voxel_ml = abs(np.linalg.det(affine[:3, :3])) / 1000
    table = THORAX7 if settings.labels == "thorax" else CARDIAC8
    counts = np.bincount(labels.ravel(), minlength=table.classes)
    volumes = {f"volume_{s.name}_ml": round(float(counts[s.value] * voxel_ml), 2) for s in table.structures}
    attributes: dict[str, Any] = {
        "sex": parameters.sex,
        "contrast": parameters.contrast,
        "metal": "no" if parameters.metal == "no" else "yes",
        "scan_range": parameters.scan_range,
        **volumes,
    }
    provenance = {
        "generator": "phantom",
        "seed": seed,
        "index": index,
        "settings": settings.model_dump(mode="json"),
        "parameters": parameters.to_dict(),
        "volumes_ml": chamber_volumes(parameters),
    }
    return Case(name, image, labels, affine, table, name, "phantom", attributes, provenance)


def heart_cases(settings: PhantomSettings, count: int, seed: int, first: int = 0, workers: int = 1) -> Iterator[Case]:
    """Stream cases ``first`` to ``count - 1`` in order, made by ``workers`` processes.

    Raises:
        InputError: ``first`` or ``workers`` make no sense.
    """
    if first < 0 or workers < 1:
        raise InputError(f"phantom cases: first must be at least 0 and workers at least 1, got {first} and {workers}")
    indices = range(first, count)
    if workers == 1:
        yield from (heart_case(settings, seed, index) for index in indices)
        return
    with ProcessPoolExecutor(workers) as pool:
        waiting: deque[Future[Case]] = deque()
        for index in indices:
            waiting.append(pool.submit(heart_case, settings, seed, index))
            if len(waiting) > 2 * workers:  # never more than this in memory, however slow the consumer
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _labels(scene: Scene, axes: list[np.ndarray], p: HeartParameters, settings: PhantomSettings) -> np.ndarray:
    """Return the wanted label map (X, Y, Z) of a scene."""
    if settings.labels == "thorax":
        return region_map(scene.layers)
    if settings.labels == "clean":
        return label_map(scene.layers)
    reader = np.random.default_rng([p.detail_seed, 12])
    outlined = outlined_layers(scene, pulmonary_shift(settings.annotation, reader))
    return as_drawn(label_map(outlined), axes, settings.annotation, reader)


def _voxel_axes(p: HeartParameters, settings: PhantomSettings) -> list[np.ndarray]:
    """Return voxel centres along each axis in body millimetres."""
    extent = np.array(settings.field_of_view_mm)
    centre = _FIELD_CENTRE_MM + np.array([p.offset_right_mm, p.offset_front_mm, p.offset_head_mm])
    if p.scan_range == "up_to_arch":
        extent[2] += settings.arch_extra_mm
        centre[2] += settings.arch_extra_mm / 2
    spacing = extent / settings.grid
    return [
        middle + step * (np.arange(voxels) - (voxels - 1) / 2)
        for middle, step, voxels in zip(centre, spacing, settings.grid)
    ]

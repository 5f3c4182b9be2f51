"""Phantom hearts as cases: settings, drawing of patients, rendering, and a stream of cases.

In: :class:`PhantomSettings`, a seed, an index. Out: :class:`~voxpair.core.case.Case` with image, the eight labels,
attributes (sex, contrast, metal, scan range, phase, how it was scanned, volumes) and every parameter as provenance.
Case *i* depends on (settings, seed, i) alone.

A phantom shows that a method works as built; it says nothing about clinical validity.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field, PositiveFloat, field_validator, model_validator

from voxpair.core.case import Case
from voxpair.core.errors import InputError
from voxpair.core.labels import CARDIAC8, THORAX7
from voxpair.core.run import derive_seed
from voxpair.phantom.acquisition import Scan, ScanSettings, acquire
from voxpair.phantom.anatomy import AortaLabel, HeartParameters
from voxpair.phantom.annotation import AnnotationSettings, as_drawn, pulmonary_shift
from voxpair.phantom.bones import CHEST_MM, MIDLINE_MM
from voxpair.phantom.contrast import check_state
from voxpair.phantom.cycle import chamber_volumes
from voxpair.phantom.frame import check_field
from voxpair.phantom.population import draw_anatomy

_CENTRES_MM = {"heart": (8.0, -5.0, -6.0), "chest": (MIDLINE_MM, CHEST_MM - 8, 20.0)}

Labels = Literal["expert", "clean", "thorax"]
Lengths = tuple[PositiveFloat, PositiveFloat, PositiveFloat]


class PhantomSettings(ScanSettings):
    """A cohort of phantom hearts, and how they are scanned.

    Attributes:
        grid: voxels along right, front and head.
        field_of_view_mm: extent along the same axes of a scan of the heart alone.
        spacing_mm: distance of voxels along the same axes; it takes the place of ``field_of_view_mm``, which is then
            grid times spacing.
        centre: where the field of view lies: on the heart, give or take what each patient's scan is off by, or on the
            middle of the chest, for which a field of 340 x 300 x 240 mm is wide enough.
        arch_extra_mm: how much farther towards the head a scan up to the arch reaches: on the same grid where the
            field of view is given, by as many more slices where the spacing is.
        contrast: state to probability; the probabilities need not add up to one.
        women: probability of a woman.
        lead, wires, valve, stent: probability of a pacemaker lead, of wires in the sternum, of a mechanical mitral
            valve and of a coronary stent; nobody has two of them.
        up_to_arch: probability of a scan that reaches the aortic arch.
        aorta: what of the aorta the eight structures hold: ``whole``, all that is seen of it, both limbs, as the
            papers' easiest structure suggests; or ``ascending``, which ends in the arch, by convention.
        labels: ``expert`` as a reader draws the eight structures, ``clean`` as they are, ``thorax`` the seven organs of
            ``THORAX7`` (always as they are). The images are the same for all three.
        annotation: how the reader differs from the truth.

    >>> PhantomSettings(grid=(32, 32, 32)).kernel
    'standard'
    """

    grid: tuple[int, int, int] = (64, 64, 64)
    field_of_view_mm: Lengths | None = (190.0, 190.0, 155.0)
    spacing_mm: Lengths | None = None
    centre: Literal["heart", "chest"] = "heart"
    arch_extra_mm: float = Field(40.0, ge=0, le=300)
    contrast: dict[str, float] = Field(
        default_factory=lambda: {"arterial": 0.6, "mixed": 0.2, "late_venous": 0.1, "non_contrast": 0.1}
    )
    women: float = Field(0.5, ge=0, le=1)
    lead: float = Field(0.08, ge=0, le=1)
    wires: float = Field(0.07, ge=0, le=1)
    valve: float = Field(0.02, ge=0, le=1)
    stent: float = Field(0.03, ge=0, le=1)
    up_to_arch: float = Field(0.3, ge=0, le=1)
    aorta: AortaLabel = "whole"
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

    @model_validator(mode="after")
    def _at_most_one_metal(self) -> PhantomSettings:
        if self.lead + self.wires + self.valve + self.stent > 1:
            raise ValueError("the probabilities lead, wires, valve and stent must not add up to more than 1")
        return self

    @model_validator(mode="after")
    def _one_extent(self) -> PhantomSettings:
        default = type(self).model_fields["field_of_view_mm"].default
        if self.spacing_mm is None and self.field_of_view_mm is None:
            raise ValueError("give field_of_view_mm or spacing_mm")
        if self.spacing_mm is not None and self.field_of_view_mm not in (None, default):
            raise ValueError(
                "give field_of_view_mm or spacing_mm, not both: the field of view is grid times spacing; "
                "field_of_view_mm=null takes away that of a preset"
            )
        return self


def draw_parameters(seed: int, index: int, settings: PhantomSettings) -> HeartParameters:
    """Draw patient ``index`` of the cohort named ``seed``; other patients have no influence."""
    rng = np.random.default_rng(derive_seed("phantom", seed, index))
    shares = np.array(list(settings.contrast.values()), float)
    sex = "F" if rng.uniform() < settings.women else "M"
    contrast = list(settings.contrast)[int(rng.choice(len(shares), p=shares / shares.sum()))]
    metals = ("lead", "wires", "valve", "stent", "no")
    limits = np.cumsum([getattr(settings, metal) for metal in metals[:-1]])
    metal = metals[int(np.searchsorted(limits, rng.uniform(), side="right"))]
    scan_range = "up_to_arch" if rng.uniform() < settings.up_to_arch else "cardiac"
    return draw_anatomy(rng, sex=sex, contrast=contrast, metal=metal, scan_range=scan_range, aorta_label=settings.aorta)


@dataclass(frozen=True)
class Phantom:
    """One scan: ``image`` (X, Y, Z) float32, and three label maps (X, Y, Z) uint8 of what it shows.

    ``expert`` as a reader drew the eight structures, ``clean`` as they are, ``thorax`` the organs of ``THORAX7``.
    ``affine`` (4, 4) leads from voxel index to RAS+ millimetres. Images are in HU within the scanner's 12 bits
    (MRI-like: arbitrary units).
    """

    image: np.ndarray
    expert: np.ndarray
    clean: np.ndarray
    thorax: np.ndarray
    affine: np.ndarray


def make_phantom(parameters: HeartParameters, settings: PhantomSettings, scan: Scan | None = None) -> Phantom:
    """Scan one patient and let a reader annotate it; without ``scan`` the heart stands still.

    Raises:
        InputError: the parameters contradict each other, or the heart lies outside the field of view.
    """
    axes = voxel_axes(parameters, settings)
    check_field(axes, parameters)
    reader = np.random.default_rng([parameters.detail_seed, 12])
    shift_mm = pulmonary_shift(settings.annotation, reader)
    scanned = acquire(axes, parameters, settings, scan or Scan(seed=parameters.detail_seed), shift_mm)
    expert = as_drawn(scanned.outlined, axes, settings.annotation, reader)
    affine = np.diag([*(axis[1] - axis[0] for axis in axes), 1.0])
    affine[:3, 3] = [axis[0] for axis in axes]
    return Phantom(scanned.image, expert, scanned.labels, scanned.regions, affine)


def render(
    parameters: HeartParameters, settings: PhantomSettings, scan: Scan | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return image, the labels that ``settings`` ask for, and affine of :func:`make_phantom`."""
    phantom = make_phantom(parameters, settings, scan)
    return phantom.image, getattr(phantom, settings.labels), phantom.affine


def heart_case(settings: PhantomSettings, seed: int, index: int) -> Case:
    """Return case ``index`` of the cohort named ``seed``, for example ``heart_0007``.

    Its attributes say who was scanned and how, and give ``volume_LV_ml`` … of its labels in the field of view.
    """
    return heart_case_with_others(settings, seed, index)[0]


def heart_case_with_others(settings: PhantomSettings, seed: int, index: int) -> tuple[Case, dict[str, np.ndarray]]:
    """Return :func:`heart_case`, and the expert and clean label maps (X, Y, Z) of it that are not its labels."""
    parameters = draw_parameters(seed, index, settings)
    scan = Scan.draw(np.random.default_rng(derive_seed("phantom scan", seed, index)), settings)
    phantom = make_phantom(parameters, settings, scan)
    labels, affine = getattr(phantom, settings.labels), phantom.affine
    name = f"heart_{index:04d}"
    table = THORAX7 if settings.labels == "thorax" else CARDIAC8
    voxel_ml = abs(np.linalg.det(affine[:3, :3])) / 1000
    counts = np.bincount(labels.ravel(), minlength=table.classes)
    volumes = {f"volume_{s.name}_ml": round(float(counts[s.value] * voxel_ml), 2) for s in table.structures}
    provenance = {
        "generator": "phantom",
        "seed": seed,
        "index": index,
        "settings": settings.model_dump(mode="json"),
        "parameters": parameters.to_dict(),
        "volumes_ml": chamber_volumes(parameters),
        "scan": asdict(scan),
    }
    attributes = {**_attributes(parameters, settings, scan), **volumes}
    patient = name if seed == 0 else f"{name}_of_seed_{seed}"  # cohorts of other seeds are other people
    case = Case(name, phantom.image, labels, affine, table, patient, "phantom", attributes, provenance)
    return case, {kind: getattr(phantom, kind) for kind in ("expert", "clean") if kind != settings.labels}


def _attributes(p: HeartParameters, settings: PhantomSettings, scan: Scan) -> dict[str, Any]:
    """Return the columns of ``cases.csv`` that say who was scanned and how."""
    common = {
        "sex": p.sex,
        "contrast": p.contrast,
        "metal": "no" if p.metal == "no" else "yes",
        "metal_kind": p.metal,
        "scan_range": p.scan_range,
        "modality": settings.modality,
        "phase": round(p.phase, 3),
        "heart_rate_bpm": round(scan.heart_rate_bpm, 1),
        "motion": "yes" if scan.window_ms else "no",
        "steps": "yes" if scan.steps else "no",
    }
    if settings.modality == "mr":
        return common
    names = ("mode", "kernel", "dose", "tube_voltage_kv")
    return common | {name: getattr(settings, name) for name in names}


def heart_cases(settings: PhantomSettings, count: int, seed: int, first: int = 0, workers: int = 1) -> Iterator[Case]:
    """Stream cases ``first`` to ``count - 1`` in order, made by ``workers`` processes.

    Raises:
        InputError: ``first`` or ``workers`` make no sense.
    """
    return (case for case, _ in heart_cases_with_others(settings, count, seed, first, workers))


def heart_cases_with_others(
    settings: PhantomSettings, count: int, seed: int, first: int = 0, workers: int = 1
) -> Iterator[tuple[Case, dict[str, np.ndarray]]]:
    """Stream as :func:`heart_cases` does, each case with its other label maps."""
    if first < 0 or workers < 1:
        raise InputError(f"phantom cases: first must be at least 0 and workers at least 1, got {first} and {workers}")
    indices = range(first, count)
    if workers == 1:
        yield from (heart_case_with_others(settings, seed, index) for index in indices)
        return
    with ProcessPoolExecutor(workers) as pool:
        waiting: deque[Future[tuple[Case, dict[str, np.ndarray]]]] = deque()
        for index in indices:
            waiting.append(pool.submit(heart_case_with_others, settings, seed, index))
            if len(waiting) > 2 * workers:  # never more than this in memory, however slow the consumer
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def voxel_axes(p: HeartParameters, settings: PhantomSettings) -> list[np.ndarray]:
    """Return voxel centres along each axis in body millimetres."""
    voxels = np.array(settings.grid)
    offset = np.array([p.offset_right_mm, p.offset_front_mm, p.offset_head_mm])
    centre = np.array(_CENTRES_MM[settings.centre]) + (offset if settings.centre == "heart" else 0.0)
    extra_mm = settings.arch_extra_mm if p.scan_range == "up_to_arch" else 0.0
    if settings.spacing_mm is None:
        extent = np.array(settings.field_of_view_mm)
        extent[2] += extra_mm
        spacing = extent / voxels
    else:
        spacing = np.array(settings.spacing_mm)
        voxels[2] += round(extra_mm / spacing[2])
        extra_mm = (voxels[2] - settings.grid[2]) * spacing[2]
    centre[2] += extra_mm / 2
    return [middle + step * (np.arange(n) - (n - 1) / 2) for middle, step, n in zip(centre, spacing, voxels)]

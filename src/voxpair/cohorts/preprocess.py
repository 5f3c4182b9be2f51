"""Scans onto one grid, and back: orientation, voxel size, crop and pad, intensities, and the inverse of each.

Takes a :class:`Case` in original units on any grid; gives float32 images in [0, 1] with class indices on the
networks' grid, and the :class:`Geometry` with which predictions or generated volumes go back. Nobody else knows
the grid or the intensity window.

    step          image                                    labels
    orient        axes to the nearest RAS                  the same
    scale         CT: fixed window in HU; MRI: robust      label values to class indices
                  percentiles of each volume; to [0, 1]
    resample      linear, about the volume's centre        per class as soft one-hot, then the largest
    crop or pad   centred; mirror or constant              the same, so that pairs stay pairs
    curve         CT: soft tissue may take more of [0, 1]  -

Source: window, grid and stretching of whole axes as in Ikuta et al. 2024 and Hu et al. 2024, sections 3.1-3.2
(-1000 to 2000 HU, 512 -> 256 in plane, depth 160). They give no rule for the labels; soft one-hot avoids the
one-voxel islands of nearest-neighbour resizing.

Shapes: K classes, X Y Z volume axes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import nibabel as nib
import numpy as np
from pydantic import field_validator, model_validator

from voxpair.cohorts.geometry import (
    Geometry,
    Shape,
    Triple,
    bring_back,
    largest,
    orient,
    overlap,
    resample,
    resample_classes,
    unorient,
    whole_shape,
)
from voxpair.core.case import Case, Source
from voxpair.core.errors import InputError, RunError
from voxpair.core.labels import LabelTable
from voxpair.core.settings import Settings, digest

CODE_VERSION = 1
"""Raise it when the same settings give other voxels: prepared caches of older code are then left alone."""

Fit = Literal["resample", "crop_or_pad"]


class PreprocessSettings(Settings):
    """The grid of the networks and how a scan gets onto it.

    Attributes:
        grid: voxels along X, Y, Z (right, anterior, superior).
        fit: per axis (one word serves all three): "resample" stretches the whole axis onto the grid, as the papers
            do; "crop_or_pad" keeps millimetres and cuts or fills about the centre.
        spacing_mm: voxel size on "crop_or_pad" axes; None keeps each scan's own.
        intensity: "ct" maps ``window_hu`` to [0, 1], "mri" each volume's ``robust_percentiles``;
            "auto" takes "ct" for cohorts of modality CT, else "mri".
        soft_tissue_hu: the part of ``window_hu`` ("ct") that is given the middle three fifths of [0, 1], so that a
            loss in [0, 1] weighs a chamber against its wall more, and lung against air less; None is the papers'
            straight line.
        pad: how "crop_or_pad" fills: "mirror", or "constant" (air, background);
            "auto" takes "constant" for CT, else "mirror", since networks learn repeated edges as streaks.

    >>> PreprocessSettings(grid=(40, 56, 40), fit="crop_or_pad").fit
    ('crop_or_pad', 'crop_or_pad', 'crop_or_pad')
    """

    grid: Shape = (96, 96, 96)
    fit: tuple[Fit, Fit, Fit] = ("resample", "resample", "resample")
    spacing_mm: Triple | None = None
    intensity: Literal["auto", "ct", "mri"] = "auto"
    window_hu: tuple[float, float] = (-1000.0, 2000.0)
    soft_tissue_hu: tuple[float, float] | None = None
    robust_percentiles: tuple[float, float] = (0.5, 99.5)
    pad: Literal["auto", "mirror", "constant"] = "auto"

    @field_validator("fit", mode="before")
    @classmethod
    def _one_word_for_all_axes(cls, value: Any) -> Any:
        return (value,) * 3 if isinstance(value, str) else value

    @model_validator(mode="after")
    def _refuse_nonsense(self) -> PreprocessSettings:
        if min(self.grid) < 1:
            raise ValueError(f"every axis of the grid needs at least 1 voxel, got {self.grid}")
        if self.spacing_mm is not None:
            if not all(0 < s < np.inf for s in self.spacing_mm):
                raise ValueError(f"spacing_mm must be above 0 along every axis, got {self.spacing_mm}")
            if "crop_or_pad" not in self.fit:
                raise ValueError("spacing_mm has no effect where every axis is resampled to the grid: leave it null")
        low, high = self.window_hu
        if not -np.inf < low < high < np.inf:
            raise ValueError(f"window_hu must be (lower, upper) with lower < upper, got {self.window_hu}")
        if self.soft_tissue_hu and not low < self.soft_tissue_hu[0] < self.soft_tissue_hu[1] < high:
            raise ValueError(f"soft_tissue_hu must rise inside window_hu {self.window_hu}, got {self.soft_tissue_hu}")
        low, high = self.robust_percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(f"robust_percentiles must rise within 0 to 100, got {self.robust_percentiles}")
        return self


@dataclass(frozen=True, eq=False)
class Prepared:
    """A case on the networks' grid.

    Args:
        image: (X, Y, Z) float32 in [0, 1].
        labels: (X, Y, Z) uint8 class indices 0..K-1; None where nobody has annotated.
        geometry: the way back.
        labels_lost: fraction of the annotated voxels that the crop cut away, 0 to 1.
    """

    image: np.ndarray
    labels: np.ndarray | None
    geometry: Geometry
    labels_lost: float = 0.0


@dataclass(frozen=True)
class Preprocessor:
    """Grid, orientation and intensity window of a stage, and their inverse.

    Args:
        label_table: whose values the labels have.
        modality: "CT" is measured in HU; anything else in units that differ from scan to scan.
    """

    settings: PreprocessSettings
    label_table: LabelTable
    modality: str

    def digest(self) -> str:
        """Return 16 hex digits that change whenever the prepared voxels could."""
        table = self.label_table.to_mapping()
        return digest([CODE_VERSION, self.settings.model_dump(mode="json"), table, self._intensity, self._pad])

    def forward(self, case: Case, crop: bool = True) -> Prepared:
        """Put a case onto the grid.

        Args:
            crop: False keeps all of a "crop_or_pad" axis that is longer than the grid, for sliding windows.

        Raises:
            InputError: the image has no contrast, or the labels are of another table.
        """
        geometry = self._plan(case, crop)
        image = orient(self._scaled(case.image, geometry), geometry)
        image = self._placed(resample(image, geometry.resampled_shape, geometry.step), geometry, 0.0)
        image = np.clip(image, 0, 1, dtype=np.float32)  # resampling may overshoot by a rounding error
        image = np.interp(image, *self._curve).astype(np.float32)
        if case.labels is None:
            return Prepared(image, None, geometry)
        self.label_table.check(case.labels, f"case {case.name}")
        classes = orient(self.label_table.to_classes(case.labels), geometry)
        classes = resample_classes(classes, geometry.resampled_shape, geometry.step)
        inside = overlap(geometry)[0]
        annotated = np.count_nonzero(classes)
        lost = float(1 - np.count_nonzero(classes[inside]) / annotated) if annotated else 0.0
        return Prepared(image, np.ascontiguousarray(self._placed(classes, geometry, 0)), geometry, lost)

    def inverse_probabilities(self, probabilities: np.ndarray, geometry: Geometry) -> np.ndarray:
        """Return label values (uint8) on the original grid.

        Probabilities, not labels, are resampled, so that borders stay smooth; what the crop cut away is background.

        Args:
            probabilities: (K, X, Y, Z), finite, larger is likelier; shape as in ``geometry``.
        """
        expected = (self.label_table.classes, *geometry.grid)
        if probabilities.shape != expected:
            raise RunError(f"expected class probabilities of shape {expected}, got {probabilities.shape}")
        if not np.isfinite(probabilities).all():
            raise RunError("the class probabilities hold NaN or infinite values: the network that made them diverged")
        return self._values_on_original(range(len(probabilities)), lambda k: probabilities[k], geometry)

    def restore(
        self,
        image: np.ndarray,
        labels: np.ndarray | None,
        geometry: Geometry,
        *,
        name: str,
        patient: str,
        source: Source,
        attributes: Mapping[str, Any] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> Case:
        """Return a case in original units on the original grid, which for a synthetic geometry is the prepared one.

        Args:
            image: (X, Y, Z) in [0, 1] (values outside are clipped).
            labels: (X, Y, Z) class indices, or None.
        """
        for word, volume in (("image", image), ("labels", labels)):
            if volume is not None and volume.shape != geometry.grid:
                raise RunError(f"case {name}: the {word} have shape {volume.shape}, the geometry {geometry.grid}")
        low, high = geometry.intensity_low, geometry.intensity_high
        straight = np.interp(np.clip(image, 0, 1), *self._curve[::-1]).astype(np.float32)
        whole = unorient(bring_back(straight, geometry, 0.0), geometry)
        values = None
        if labels is not None:
            present = [int(k) for k in np.unique(labels)]
            values = self._values_on_original({0, *present}, lambda k: labels == k, geometry)
        return Case(
            name=name,
            image=(whole.astype(np.float64) * (high - low) + low).astype(np.float32),
            labels=values,
            affine=geometry.original_affine,
            label_table=self.label_table,
            patient=patient,
            source=source,
            attributes=attributes or {},
            provenance=provenance or {},
        )

    @property
    def _intensity(self) -> str:
        chosen = self.settings.intensity
        return chosen if chosen != "auto" else "ct" if self.modality.upper() == "CT" else "mri"

    @property
    def _curve(self) -> tuple[list[float], list[float]]:
        """Knots of the way from a value within the window, 0 to 1, to what the networks see, 0 to 1."""
        soft = self.settings.soft_tissue_hu
        if self._intensity != "ct" or soft is None:
            return [0.0, 1.0], [0.0, 1.0]
        low, high = self.settings.window_hu
        return [0.0, *((hu - low) / (high - low) for hu in soft), 1.0], [0.0, 0.2, 0.8, 1.0]

    @property
    def _pad(self) -> str:
        chosen = self.settings.pad
        return chosen if chosen != "auto" else "constant" if self.modality.upper() == "CT" else "mirror"

    def _plan(self, case: Case, crop: bool) -> Geometry:
        orientation = tuple((int(a), int(s)) for a, s in nib.orientations.io_orientation(case.affine))
        shape, spacing = [0, 0, 0], [0.0, 0.0, 0.0]
        for size, size_mm, (axis, _) in zip(case.image.shape, case.spacing_mm, orientation):
            shape[axis], spacing[axis] = size, size_mm
        resampled, step, grid = [], [], []
        for i, (n, wanted, fit) in enumerate(zip(shape, self.settings.grid, self.settings.fit)):
            if fit == "resample":
                size, ratio = wanted, n / wanted
            else:
                ratio = self.settings.spacing_mm[i] / spacing[i] if self.settings.spacing_mm else 1.0
                ratio = 1.0 if abs(ratio - 1) < 1e-4 else ratio  # affines are stored as float32: no blur for nothing
                size = max(1, round(n / ratio))
            resampled.append(size)
            step.append(ratio)
            grid.append(wanted if crop else max(wanted, size))
        before = [(g - r) // 2 for g, r in zip(grid, resampled)]
        low, high = self._range(case)
        return Geometry(
            whole_shape(case.image.shape),
            case.affine,
            orientation,
            whole_shape(resampled),
            tuple(step),
            whole_shape(before),
            whole_shape(grid),
            low,
            high,
        )

    def _range(self, case: Case) -> tuple[float, float]:
        if self._intensity == "ct":
            return self.settings.window_hu
        low, high = np.percentile(case.image, self.settings.robust_percentiles).tolist()
        if not low < high:
            at = " and ".join(f"{p:g}" for p in self.settings.robust_percentiles)
            raise InputError(
                f"case {case.name}: the image has no contrast (its percentiles {at} are both {low:g}). "
                "Leave the case out, or widen robust_percentiles."
            )
        return low, high

    def _scaled(self, image: np.ndarray, geometry: Geometry) -> np.ndarray:
        low, high = geometry.intensity_low, geometry.intensity_high
        # float64: float32 would lose digits where a scan's values are large and its contrast is small
        return np.clip((image.astype(np.float64) - low) / (high - low), 0, 1).astype(np.float32)

    def _placed(self, volume: np.ndarray, geometry: Geometry, fill: float) -> np.ndarray:
        """Cut and fill a resampled volume to the grid."""
        source, target = overlap(geometry)
        width = [(t.start, g - t.stop) for t, g in zip(target, geometry.grid)]
        mode = {"mode": "symmetric"} if self._pad == "mirror" else {"mode": "constant", "constant_values": fill}
        return np.pad(volume[source], width, **mode)

    def _values_on_original(
        self, classes: Iterable[int], soft: Callable[[int], np.ndarray], geometry: Geometry
    ) -> np.ndarray:
        def on_original(k: int) -> np.ndarray:
            return bring_back(soft(k).astype(np.float32, copy=False), geometry, 1.0 if k == 0 else 0.0)

        values = self.label_table.to_values(largest(classes, on_original, geometry.ras_shape))
        return unorient(values, geometry)

"""Volumes on disk: read and write one NIfTI (or MGZ) file, with its true geometry and nothing guessed in silence.

In: a path. Out: an array on axes (X, Y, Z) as stored, the affine (voxel index to RAS+ millimetres) and notes, which
are sentences about anything that was not taken literally. A file that cannot be trusted is an ``InputError``.

How the affine is chosen (NIfTI-1 standard, "3D image orientation and location in space", with one exception):

    sform   qform   pixdim               affine
    set     any     agrees with sform    sform
    set     any     differs              sform, and a note
    unit    set     differs              qform, and a note           | sform has 1 mm voxels although the header's
    unit    unset   differs              sform scaled by pixdim      | pixdim says otherwise: the ACDC quirk
    unset   set     (part of qform)      qform
    unset   unset   any                  pixdim on the standard's default axes, and a note
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from voxpair.core.errors import InputError
from voxpair.core.run import atomic_path

SUFFIXES = (".nii.gz", ".nii", ".mgz", ".mgh")
SPACING_FROM_PIXDIM = "the affine says 1 mm although the header's pixdim says otherwise: the spacing of pixdim was used"
SPACING_FROM_QFORM = "the sform says 1 mm although qform and pixdim say otherwise: the qform was used"
PIXDIM_IGNORED = "the header's pixdim disagrees with the affine: the affine was used"
NO_ORIENTATION = "the header has neither sform nor qform: position and left/right are the standard's default"
WHOLE_FLOATS = "the labels are stored as floating point: read as whole numbers"
SQUEEZED = "the file is 4D with one volume: read as 3D"
UNIT_CONVERTED = "the header's unit is not millimetres: the affine was converted"

_TO_MM = {1: 1e3, 3: 1e-3}  # NIfTI unit codes for metre and micron; 2 is millimetre, 0 unknown and read as millimetre
_DAMAGE = (OSError, EOFError, zlib.error, ValueError, OverflowError, ImageFileError, HeaderDataError, WrapStructError)


def read_image(path: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Read an intensity volume in original units (``scl_slope`` and ``scl_inter`` applied).

    Returns:
        image (X, Y, Z) float32, affine (4, 4) in millimetres, and notes.

    Raises:
        InputError: the file is missing, damaged (gzip's checksum included), not one 3D volume, or not finite.
    """
    header_image, notes = _load(Path(path))
    image = _array(path, header_image, np.float32)
    bad = int(image.size - np.isfinite(image).sum())
    if bad:
        raise InputError(f"{path} has {bad} voxels that are NaN or infinite. Mend the file or leave it out.")
    affine, geometry_notes = _affine(path, header_image)
    return image, affine, notes + geometry_notes


def read_labels(path: Path, *, rounding: float = 1e-3) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Read a label map. Values are not checked against a table here, and may exceed 255.

    Args:
        path: the file.
        rounding: how far a floating-point label may be from a whole number, in (0, 0.5). The default covers the
            arithmetic of ``scl_slope`` only: a label of 1.5 is a mixture made by interpolation and has no right value.

    Returns:
        labels (X, Y, Z) of an integer type (uint8 where the values fit), affine (4, 4), notes.

    Raises:
        InputError: as :func:`read_image`, and for labels that are negative or not whole numbers.
    """
    header_image, notes = _load(Path(path))
    labels = _array(path, header_image, None)
    if labels.dtype.kind == "f":
        whole = np.rint(labels)
        with np.errstate(invalid="ignore"):
            off = ~(np.abs(labels - whole) <= rounding)  # written so that NaN counts as off
        if off.any():
            example = float(labels[off][0])
            raise InputError(
                f"{path}: {int(off.sum())} voxels hold labels that are not whole numbers, such as {example:g}. "
                "Labels must be resampled with nearest neighbour; export the file again."
            )
        labels = whole.astype(np.int64)
        notes.append(WHOLE_FLOATS)
    if labels.min() < 0:
        raise InputError(f"{path}: label value {int(labels.min())} is negative; labels are 0 (background) and above.")
    if labels.max() <= 255:
        labels = labels.astype(np.uint8, copy=False)
    affine, geometry_notes = _affine(path, header_image)
    return labels, affine, notes + geometry_notes


def write_image(path: Path, image: np.ndarray, affine: np.ndarray) -> None:
    """Write an intensity volume (X, Y, Z): int16 where that loses nothing (HU), float32 elsewhere."""
    whole = np.array_equal(image, np.rint(image)) and image.min() >= -32768 and image.max() <= 32767
    _write(path, np.asarray(image, np.int16 if whole else np.float32), affine)


def write_labels(path: Path, labels: np.ndarray, affine: np.ndarray) -> None:
    """Write a label map (X, Y, Z) with whole values 0 to 255 as uint8."""
    small = np.asarray(labels).astype(np.uint8)
    if not np.array_equal(small, labels):
        raise InputError(f"{path}: labels to be written must be whole numbers from 0 to 255")
    _write(path, small, affine)


def stored_type(path: Path) -> str:
    """Return the name of the voxel type in the file, such as ``"int16"``."""
    return str(nib.load(path).get_data_dtype().newbyteorder("="))


def count_values(labels: np.ndarray) -> dict[int, int]:
    """Return how many voxels hold each label value.

    >>> count_values(np.array([0, 0, 3], np.uint8))
    {0: 2, 3: 1}
    """
    if labels.max() < 1 << 16:  # counting is many times faster than sorting a large volume
        counts = np.bincount(labels.ravel())
        return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    found, counts = np.unique(labels, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist()))


def grid_gap(first: np.ndarray, second: np.ndarray, shape: tuple[int, ...]) -> float:
    """Return how far two affines place the same corner apart, at worst, in voxels (of the smallest spacing).

    >>> moved = np.eye(4); moved[0, 3] = 0.5
    >>> grid_gap(np.eye(4), moved, (10, 10, 10))
    0.5
    """
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij")).reshape(3, -1)
    apart_mm = np.linalg.norm((first - second)[:3, :3] @ corners + (first - second)[:3, 3:], axis=0).max()
    return float(apart_mm / np.linalg.norm(first[:3, :3], axis=0).min())


def content_mark(path: Path | None) -> list[str | int] | None:
    """Return what changes when a file's content does: name and size, and of gzip the last eight bytes.

    Those are the checksum (CRC-32) and length of the uncompressed volume, so the volume need not be read. A file that
    is not compressed is hashed whole.
    """
    if path is None:
        return None
    try:
        with path.open("rb") as stream:
            size = path.stat().st_size
            if path.suffix not in (".gz", ".mgz"):
                return [path.name, size, hashlib.file_digest(stream, "sha256").hexdigest()]
            stream.seek(max(0, size - 8))
            return [path.name, size, stream.read().hex()]
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}; mend it or take it out") from None


def is_orthonormal(affine: np.ndarray) -> bool:
    """True if the voxel axes are at right angles (within 1e-3), which ITK-based tools require."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(directions.T @ directions - np.eye(3)).max() < 1e-3)


def _load(path: Path) -> tuple[nib.spatialimages.SpatialImage, list[str]]:
    """Parse the whole file from memory: unlike a lazy read, that reaches gzip's checksum at the very end."""
    if not path.name.endswith(SUFFIXES):
        raise InputError(f"{path}: unknown kind of file; expected one of {', '.join(SUFFIXES)}")
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        image = _format(path, content).from_bytes(content)
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except _DAMAGE as error:
        raise _damaged(path, error) from None
    stored = image.get_data_dtype()
    if stored.kind not in "buif":
        raise InputError(f"{path}: expected one number per voxel, got voxels of type {stored}")
    shape = image.shape
    if len(shape) < 3 or any(n != 1 for n in shape[3:]) or 0 in shape:
        volumes = f" ({int(np.prod(shape[3:]))} volumes)" if len(shape) > 3 else ""
        raise InputError(f"{path}: expected one 3D volume, got shape {tuple(map(int, shape))}{volumes}. Extract one.")
    return image, [SQUEEZED] if len(shape) > 3 else []


def _format(path: Path, content: bytes) -> type[nib.Nifti1Image | nib.Nifti2Image | nib.MGHImage]:
    if path.name.endswith((".mgz", ".mgh")):
        return nib.MGHImage
    header_size = content[:4]  # NIfTI-2 is told from NIfTI-1 by it, in either byte order
    return nib.Nifti2Image if 540 in (int.from_bytes(header_size, o) for o in ("little", "big")) else nib.Nifti1Image


def _array(path: Path, image: nib.spatialimages.SpatialImage, dtype: type | None) -> np.ndarray:
    try:
        array = np.asarray(image.dataobj, dtype)
    except _DAMAGE as error:
        raise _damaged(path, error) from None
    if array.dtype.kind == "b":
        array = array.astype(np.uint8)
    return np.ascontiguousarray(array.reshape(image.shape[:3]).astype(array.dtype.newbyteorder("="), copy=False))


def _damaged(path: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split()).rstrip(".?") or type(error).__name__
    return InputError(f"cannot read {path}: {reason}. The file is damaged, cut short or no image; copy it again.")


def _affine(path: Path, image: nib.spatialimages.SpatialImage) -> tuple[np.ndarray, list[str]]:
    """Choose the affine by the table at the top of this module."""
    affine, notes = np.array(image.affine, float), []
    if isinstance(image, nib.Nifti1Image):  # Nifti2Image is one too
        affine, notes = _nifti_affine(image)
        scale = _TO_MM.get(int(image.header["xyzt_units"]) & 7, 1.0)
        if scale != 1:
            affine[:3] *= scale
            notes.append(UNIT_CONVERTED)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise InputError(f"{path}: the affine cannot be inverted, so voxels have no size or place:\n{affine}")
    return affine, notes


def _nifti_affine(image: nib.Nifti1Image) -> tuple[np.ndarray, list[str]]:
    header, affine = image.header, np.array(image.affine, float)
    sform_set, qform_set = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    if not sform_set:
        return affine, [] if qform_set else [NO_ORIENTATION]
    pixdim = np.abs(np.array(header.get_zooms()[:3], float))
    if np.allclose(np.linalg.norm(affine[:3, :3], axis=0), pixdim, rtol=0.01):
        return affine, []
    says_1_mm = np.allclose(affine[:3, :3].T @ affine[:3, :3], np.eye(3), atol=1e-4)
    plausible = np.isfinite(pixdim).all() and pixdim.min() > 0.01 and pixdim.max() < 100
    if not (says_1_mm and plausible):
        return affine, [PIXDIM_IGNORED]
    if qform_set:
        return np.array(header.get_qform(), float), [SPACING_FROM_QFORM]
    affine[:3, :3] *= pixdim  # scales column j, the direction of voxel axis j
    return affine, [SPACING_FROM_PIXDIM]


def _write(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    path = Path(path)
    if not path.name.endswith((".nii.gz", ".nii")):
        raise InputError(f"{path}: volumes are written as .nii.gz or .nii")
    if array.ndim != 3 or 0 in array.shape:
        raise InputError(f"{path}: expected a 3D volume to write, got shape {array.shape}")
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    if is_orthonormal(affine):  # a qform cannot say shear; better none than one that contradicts the sform
        image.set_qform(affine, code=1)
    with atomic_path(path) as temporary:
        nib.save(image, temporary)

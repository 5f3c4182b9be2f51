"""Prepared cases on disk, and batches of them as a pure function of the update number.

Takes a cohort and a preprocessor; gives memory-mapped arrays, so that a cohort larger than the memory can be read
at random, and batches of tensors for :func:`voxpair.training.loop.fit`.

    CACHE/DIGEST/CASE.image.npy    (X, Y, Z) float32 in [0, 1]
    CACHE/DIGEST/CASE.labels.npy   (X, Y, Z) uint8 class indices; absent where nobody has annotated
    CACHE/DIGEST/CASE.json         the rest; written last, so a case that has it is complete

DIGEST names the settings, the label table, the code version and the data: whatever of these changes, another
folder is made. A build that was interrupted goes on where it stopped.

Shapes: B batch, C channels, K classes, X Y Z volume axes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from voxpair.cohorts.augment import Augmentation
from voxpair.cohorts.geometry import Geometry, Shape
from voxpair.cohorts.preprocess import Preprocessor
from voxpair.core.errors import InputError, RunError
from voxpair.core.labels import LabelTable
from voxpair.core.run import SILENT, Progress, atomic_path, derive_seed, make_folder, read_json, write_json
from voxpair.core.settings import digest

if TYPE_CHECKING:
    from voxpair.cohorts.cohort import Cohort

Item = dict[str, Any]


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """One case on the networks' grid; the arrays are read-only maps of files and cost memory only where read.

    Args:
        image: (X, Y, Z) float32 in [0, 1].
        labels: (X, Y, Z) uint8 class indices 0..K-1; None where nobody has annotated.
        voxels_per_class: K numbers, all 0 without labels.
    """

    name: str
    patient: str
    image: np.ndarray
    labels: np.ndarray | None
    geometry: Geometry
    attributes: dict[str, Any]
    source: str
    voxels_per_class: tuple[int, ...]


@dataclass(frozen=True)
class PreparedCohort:
    """The prepared cases of a cohort, in its order. Arrays are opened when a case is asked for.

    Args:
        files: the ``CASE.json`` of each case.
        facts: what they hold.
    """

    files: tuple[Path, ...]
    facts: tuple[dict[str, Any], ...]
    label_table: LabelTable

    @classmethod
    def build(
        cls,
        cohort: Cohort,
        preprocessor: Preprocessor,
        cache_folder: Path,
        progress: Progress = SILENT,
        crop: bool = True,
    ) -> PreparedCohort:
        """Prepare every case that ``cache_folder`` does not hold yet.

        Args:
            crop: as in :meth:`Preprocessor.forward`; False keeps whole volumes, each of its own shape.

        Raises:
            InputError: the cohort is empty or has another label table than the preprocessor.
        """
        if not len(cohort):
            raise InputError("there are no cases to prepare: the cohort, or the split asked for, is empty")
        if cohort.label_table.to_mapping() != preprocessor.label_table.to_mapping():
            raise InputError(
                f"the cohort's labels are {cohort.label_table.to_mapping()}, but "
                f"{preprocessor.label_table.to_mapping()} are expected here. Import the cohort with that label table."
            )
        folder = make_folder(Path(cache_folder) / digest([preprocessor.digest(), cohort.digest(), crop]))
        files = [folder / f"{record.name}.json" for record in cohort.records]
        progress.start("prepare", len(files), sum(file.exists() for file in files))
        for record, file in zip(cohort.records, files):
            if not file.exists():
                _prepare(cohort, record.name, preprocessor, file, crop)
                progress.advance()
        prepared = cls(tuple(files), tuple(read_json(file) for file in files), cohort.label_table)
        prepared._report_lost_labels(progress)
        return prepared

    @classmethod
    def concat(cls, *parts: PreparedCohort) -> PreparedCohort:
        """Return the cases of several cohorts, such as real and synthetic ones, one after the other."""
        tables = [part.label_table for part in parts]
        if not parts or any(table.to_mapping() != tables[0].to_mapping() for table in tables):
            raise InputError(f"only cohorts with one label table can be joined, got {[t.name for t in tables]}")
        return cls(sum((p.files for p in parts), ()), sum((p.facts for p in parts), ()), tables[0])

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(facts["name"] for facts in self.facts)

    def class_counts(self) -> np.ndarray:
        """Return the voxels of each class over all annotated cases: shape (K,), int64, background first."""
        return np.sum([facts["voxels_per_class"] for facts in self.facts], axis=0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[PreparedCase]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> PreparedCase:
        file, facts = self.files[index], self.facts[index]
        return PreparedCase(
            name=facts["name"],
            patient=facts["patient"],
            image=_open(_array_file(file, "image")),
            labels=_open(_array_file(file, "labels")) if facts["has_labels"] else None,
            geometry=Geometry.from_dict(facts["geometry"]),
            attributes=facts["attributes"],
            source=facts["source"],
            voxels_per_class=tuple(facts["voxels_per_class"]),
        )

    def _report_lost_labels(self, progress: Progress) -> None:
        lost = {facts["name"]: facts["labels_lost"] for facts in self.facts if facts["labels_lost"] > 0}
        if lost:
            worst = max(lost, key=lost.__getitem__)
            progress.say(
                f"The crop to the grid cuts annotated voxels away in {len(lost)} of {len(self)} cases "
                f"(most in {worst}: {lost[worst]:.1%}). A larger grid, larger spacing_mm or fit=resample keeps them."
            )


def _prepare(cohort: Cohort, name: str, preprocessor: Preprocessor, file: Path, crop: bool) -> None:
    case = cohort.read(name)
    prepared = preprocessor.forward(case, crop)
    arrays = {"image": prepared.image}
    counts = np.zeros(preprocessor.label_table.classes, int)
    if prepared.labels is not None:
        arrays["labels"] = prepared.labels
        counts = np.bincount(prepared.labels.ravel(), minlength=len(counts))
    for word, array in arrays.items():
        with atomic_path(_array_file(file, word)) as temporary:
            np.save(temporary, array, allow_pickle=False)
    write_json(
        file,
        {
            "name": case.name,
            "patient": case.patient,
            "source": case.source,
            "attributes": dict(case.attributes),
            "has_labels": prepared.labels is not None,
            "voxels_per_class": counts.tolist(),
            "labels_lost": prepared.labels_lost,
            "geometry": prepared.geometry.to_dict(),
        },
    )


def _array_file(file: Path, word: str) -> Path:
    return file.with_name(f"{file.name.removesuffix('.json')}.{word}.npy")


def _open(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise RunError(
            f"cannot read the prepared array {path}: {error}. Delete the folder {path.parent}; it will be made again."
        ) from None


def pick(update: int, position: int, count: int, seed: int, *, batch_size: int) -> int:
    """Return which of ``count`` cases is at ``position`` in the batch of ``update``: shuffled epochs, not stored.

    Cases come one permutation after the other, so each is seen once before any is seen again.

    Args:
        position: 0 to batch_size - 1, over all ranks.
        batch_size: cases per update, over all ranks.

    >>> sorted(pick(update, position, 4, seed=0, batch_size=2) for update in (0, 1) for position in (0, 1))
    [0, 1, 2, 3]
    """
    epoch, place = divmod(update * batch_size + position, count)
    return int(_permutation(count, seed, epoch)[place])


@lru_cache(maxsize=16)
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng(derive_seed("epoch", seed, epoch)).permutation(count)


def draw(
    case: PreparedCase,
    seed: int,
    *,
    patch: Shape | None = None,
    foreground_fraction: float = 0.5,
    augment: Augmentation | None = None,
) -> Item:
    """Return one training item; it depends on the arguments alone.

    Args:
        patch: voxels along X, Y, Z of a random part; None takes the whole volume.
        foreground_fraction: probability that the part is centred (as far as the volume allows) on a random voxel of
            a random structure of the case, each structure being as likely as any other; else it lies anywhere.
        augment: called with the image, the labels and a seed.

    Returns:
        ``image`` (1, X, Y, Z) float32, ``labels`` (1, X, Y, Z) uint8 (0 without labels), ``has_labels``, ``name``;
        and ``augmentation``, the vector of an augmentation that has one.

    Raises:
        InputError: the patch is larger than the volume.
    """
    window = (slice(None),) * 3
    if patch is not None:
        window = _random_window(case, patch, foreground_fraction, np.random.default_rng(derive_seed("patch", seed)))
    image = torch.from_numpy(np.array(case.image[window]))[None]
    labels = torch.zeros(image.shape, dtype=torch.uint8)
    if case.labels is not None:
        labels = torch.from_numpy(np.array(case.labels[window]))[None]
    item: Item = {"name": case.name, "has_labels": case.labels is not None}
    if augment is not None:
        image, labels, *vector = augment(image, labels, derive_seed("augment", seed), case.geometry.spacing_mm)
        if vector:
            item["augmentation"] = vector[0]
    return item | {"image": image.contiguous(), "labels": labels.contiguous()}


def _random_window(
    case: PreparedCase, patch: Shape, foreground_fraction: float, random: np.random.Generator
) -> tuple[slice, ...]:
    shape = case.image.shape
    if any(p > n for p, n in zip(patch, shape)):
        raise InputError(f"case {case.name}: the patch {tuple(patch)} is larger than the prepared volume {shape}")
    start = [int(random.integers(n - p + 1)) for n, p in zip(shape, patch)]
    structures = [k for k, voxels in enumerate(case.voxels_per_class) if k and voxels]
    if structures and random.random() < foreground_fraction:
        structure = random.choice(structures)
        voxel = np.flatnonzero(case.labels == structure)[random.integers(case.voxels_per_class[structure])]
        centre = np.unravel_index(voxel, shape)
        start = [int(np.clip(c - p // 2, 0, n - p)) for c, p, n in zip(centre, patch, shape)]
    return tuple(slice(s, s + p) for s, p in zip(start, patch))


def stack(items: Sequence[Item]) -> dict[str, Any]:
    """Return a batch of items.

    Returns:
        ``image`` (B, 1, X, Y, Z) float32, ``labels`` (B, 1, X, Y, Z) long (0 where ``has_labels`` (B,) is False),
        ``names``; and ``augmentation`` (B, V) float32 if the items have one.

    Raises:
        RunError: the items have different shapes.
    """
    shapes = {item["name"]: tuple(item["image"].shape[1:]) for item in items}
    if len(set(shapes.values())) > 1:
        raise RunError(f"cases of different shapes cannot share a batch: {shapes}. Use a patch, or crop to the grid.")
    batch: dict[str, Any] = {
        "image": torch.stack([item["image"] for item in items]),
        "labels": torch.stack([item["labels"] for item in items]).long(),
        "has_labels": torch.tensor([item["has_labels"] for item in items]),
        "names": [item["name"] for item in items],
    }
    if "augmentation" in items[0]:
        vectors: list[Tensor] = [item["augmentation"] for item in items]
        batch["augmentation"] = torch.stack(vectors)
    return batch


@dataclass(frozen=True)
class CaseBatches:
    """Batches of one prepared cohort: shuffled epochs, each item as :func:`draw` makes it.

    Args:
        batch_size: cases per update and device.
        seed: of the order, the patches and the augmentation.
        patch: voxels of the random part of each case that is given; None gives whole grids.
        whole_from: the update from which whole grids are given all the same.
    """

    prepared: PreparedCohort
    batch_size: int
    seed: int
    augment: Augmentation | None = None
    patch: Shape | None = None
    foreground_fraction: float = 0.5
    whole_from: int | None = None

    def batch(self, update: int, rank: int = 0, world_size: int = 1) -> dict[str, Any]:
        """Return the batch of ``update`` on device ``rank``; the devices of one update share out its cases."""
        items = []
        patch = self.patch if self.whole_from is None or update < self.whole_from else None
        for position in range(rank * self.batch_size, (rank + 1) * self.batch_size):
            index = pick(update, position, len(self.prepared), self.seed, batch_size=self.batch_size * world_size)
            items.append(
                draw(
                    self.prepared[index],
                    derive_seed("item", self.seed, update, position),
                    patch=patch,
                    foreground_fraction=self.foreground_fraction,
                    augment=self.augment,
                )
            )
        return stack(items)

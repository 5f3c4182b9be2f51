"""The training set as latents: encoded once, several moved copies of each case, normalised, on the disk.

Takes a fitted autoencoder and prepared cases; gives batches of latents for the denoiser.

    FOLDER/CASE.npy            (copies, L, x, y, z) float32, posterior means; copy 0 was not moved
    FOLDER/CASE.vectors.npy    (copies, V) float32: how each copy was moved, zeros for "not"; V = 0 where not told

Pairs are moved before they are encoded, since a latent cannot be rotated. A file is complete or absent, and an
interrupted encoding goes on where it stopped.

Shapes: B batch, L latent channels, x y z latent axes, V length of the augmentation's vector, D of the condition's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from voxpair.cohorts.augment import GeometricJitter
from voxpair.cohorts.datasets import PreparedCase, PreparedCohort, draw, pick, stack
from voxpair.core.run import RunFolder, atomic_path, derive_seed
from voxpair.core.settings import Settings
from voxpair.generators.joint_ldm.autoencoder import AugmentationName, JointAutoencoder
from voxpair.generators.joint_ldm.reconstruction import AUGMENTATIONS
from voxpair.training.precision import autocast


class LatentSettings(Settings):
    """Copies of the training set that the denoiser is fitted on.

    Attributes:
        augmentation: "jitter" moves pairs and tells the denoiser how, so that samples come out unmoved; "paper" moves
            them as the papers do, and samples come out moved as well.
        copies: encoded copies per case, the first of them unmoved.
    """

    augmentation: AugmentationName = "jitter"
    copies: int = Field(8, ge=1)

    @property
    def vector_length(self) -> int:
        """V."""
        return GeometricJitter.vector_length if self.augmentation == "jitter" else 0


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each latent channel over the whole training set, each (L,)."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def forward(self, latent: Tensor) -> Tensor:
        mean, deviation = self._like(latent)
        return (latent - mean) / deviation

    def inverse(self, latent: Tensor) -> Tensor:
        mean, deviation = self._like(latent)
        return latent * deviation + mean

    def _like(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        shape = (1, -1, *[1] * (latent.ndim - 2))
        return latent.new_tensor(self.mean).reshape(shape), latent.new_tensor(self.deviation).reshape(shape)


@dataclass(frozen=True)
class Latents:
    """Encoded cases in a folder, in the order of ``names``."""

    folder: Path
    names: tuple[str, ...]
    copies: int

    @classmethod
    def encode(
        cls, network: JointAutoencoder, prepared: PreparedCohort, settings: LatentSettings, run: RunFolder
    ) -> Latents:
        """Encode every case that the run folder does not hold yet."""
        latents = cls(run.path, prepared.names, settings.copies)
        done = [latents.latent_file(name).exists() for name in latents.names]
        run.progress.start("encode", len(done), sum(done))
        for case, is_done in zip(prepared, done):
            if not is_done:
                latents._encode_case(network, case, settings, run.seed)
                run.progress.advance()
        return latents

    def __len__(self) -> int:
        return len(self.names)

    def latent_file(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def vector_file(self, name: str) -> Path:
        return self.folder / f"{name}.vectors.npy"

    def read(self, index: int, copy: int) -> tuple[Tensor, Tensor]:
        """Return latent (L, x, y, z) and augmentation vector (V,) of one copy."""
        latent = np.load(self.latent_file(self.names[index]), mmap_mode="r", allow_pickle=False)[copy]
        vector = np.load(self.vector_file(self.names[index]), allow_pickle=False)[copy]
        return torch.from_numpy(np.array(latent)), torch.from_numpy(vector)

    def normalisation(self) -> Normalisation:
        """Measure mean and deviation per channel over all cases and copies, in float64."""
        count, total, squares = 0, 0.0, 0.0
        for name in self.names:
            latent = np.load(self.latent_file(name), mmap_mode="r", allow_pickle=False).astype(np.float64)
            count += latent.size // latent.shape[1]
            total = total + latent.sum((0, 2, 3, 4))
            squares = squares + np.square(latent).sum((0, 2, 3, 4))
        mean = total / count
        # A channel that the autoencoder left unused is constant: it must not be blown up to unit variance.
        deviation = np.sqrt(np.maximum(squares / count - mean**2, 1e-6))
        return Normalisation(tuple(mean.tolist()), tuple(deviation.tolist()))

    @torch.inference_mode()
    def _encode_case(self, network: JointAutoencoder, case: PreparedCase, settings: LatentSettings, seed: int) -> None:
        network.eval()
        device = next(network.parameters()).device
        latents, vectors = [], []
        for copy in range(settings.copies):
            augment = AUGMENTATIONS[settings.augmentation] if copy else None
            batch = stack([draw(case, derive_seed("copy", seed, case.name, copy), augment=augment)])
            seen = (batch["image"], batch["labels"][:, 0], batch["has_labels"])
            with autocast(network.precision, device):
                mean, _ = network.encode(*(tensor.to(device) for tensor in seen))
            latents.append(mean[0].float().cpu().numpy())
            vectors.append(batch.get("augmentation", torch.zeros(1, settings.vector_length))[0].numpy())
        for file, array in ((self.vector_file(case.name), vectors), (self.latent_file(case.name), latents)):
            with atomic_path(file) as temporary:
                np.save(temporary, np.stack(array), allow_pickle=False)


@dataclass(frozen=True, eq=False)
class LatentBatches:
    """Batches of normalised latents: shuffled epochs over cases, a random copy of each.

    Args:
        conditions: (cases, D), in the order of ``latents.names``.
        batch_size: cases per update and device.
    """

    latents: Latents
    normalisation: Normalisation
    conditions: Tensor
    batch_size: int
    seed: int

    def batch(self, update: int, rank: int = 0, world_size: int = 1) -> dict[str, Any]:
        """Return ``latent`` (B, L, x, y, z), ``condition`` (B, D), ``augmentation`` (B, V) and ``names``."""
        total = self.batch_size * world_size
        rows = []
        for position in range(rank * self.batch_size, (rank + 1) * self.batch_size):
            index = pick(update, position, len(self.latents), self.seed, batch_size=total)
            rows.append((index, derive_seed("which copy", self.seed, update, position) % self.latents.copies))
        return self.rows(rows)

    def volumes(self) -> Iterator[Tensor]:
        """Stream every copy of every case, normalised, (L, x, y, z)."""
        for index in range(len(self.latents)):
            for copy in range(self.latents.copies):
                yield self.normalisation.forward(self.latents.read(index, copy)[0][None])[0]

    def unmoved(self, most: int) -> tuple[Tensor, Tensor]:
        """Return normalised unmoved latents (N, L, x, y, z) of at most so many cases, and their vectors (N, D + V)."""
        count = min(most, len(self.latents))
        batch = self.rows([(index * len(self.latents) // count, 0) for index in range(count)])
        return batch["latent"], torch.cat([batch["condition"], batch["augmentation"]], 1)

    def rows(self, rows: list[tuple[int, int]]) -> dict[str, Any]:
        """Return the batch of the given (case, copy) pairs."""
        latents, vectors = zip(*(self.latents.read(index, copy) for index, copy in rows))
        cases = [index for index, _ in rows]
        return {
            "latent": self.normalisation.forward(torch.stack(latents)),
            "condition": self.conditions[cases],
            "augmentation": torch.stack(vectors),
            "names": [self.latents.names[index] for index in cases],
        }

"""An embedding in which two views of one patient lie close and two patients lie apart, learnt without labels.

Takes patterns of scans (:func:`voxpair.evaluation.audit.similarity.pattern`, thinned by two); gives a vector per scan.
How well two vectors correlate says whether they may show one patient, whatever a generator's copy may have changed.

    part        here
    encoder     two convolutions of stride 2, then 8 channels on 4 x 4 x 4, dense to 128 and to ``length``
    views       a scan turned, scaled, shifted, bent, dimmed, blurred, with noise: what must not matter
    loss        NT-Xent over a batch: among the views of all others, find the one of the same scan
    looks       a scan is embedded as it is, shifted by a voxel or none along each axis, and mirrored: 54 vectors, of
                which the best counts. That finds shifted and mirrored copies without a fit that knows of them.

Source: Dar et al. 2024, arXiv 2402.01054: head of the encoder, NT-Xent, correlation of embeddings. What differs, by
measurement (benchmarks/evaluation/audit_power.json says what it finds): their views are turned by 5 degrees and
mirrored, ours are stronger; their head has a dropout of one half, with which a short fit learns next to nothing.
The loss is that of Chen et al. 2020, "SimCLR", Eq. 1.

Shapes: B batch, N scans, L length of the embedding, X Y Z volume axes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import torch
import torch.nn.functional as F
from monai.losses import ContrastiveLoss
from pydantic import Field
from torch import Tensor, nn

from voxpair.cohorts.datasets import pick
from voxpair.core.run import RunFolder, derive_seed
from voxpair.core.settings import Settings
from voxpair.training.loop import LoopSettings, Task, fit


class ViewSettings(Settings):
    """How far two views of one scan may differ; each change is drawn evenly up to its limit.

    Attributes:
        rotation_degrees: about each axis.
        scale: factor, between 1 / scale and scale.
        shift: fraction of each axis.
        bend: smooth displacement, fraction of each axis.
        contrast, brightness: relative change, and shift in standard deviations.
        noise: white, in standard deviations.
    """

    rotation_degrees: float = Field(10.0, ge=0, le=180)
    scale: float = Field(1.15, ge=1)
    shift: float = Field(0.08, ge=0, lt=1)
    bend: float = Field(0.04, ge=0, lt=1)
    contrast: float = Field(0.3, ge=0)
    brightness: float = Field(0.2, ge=0)
    noise: float = Field(0.3, ge=0)


class EmbeddingSettings(Settings):
    """How the contrastive encoder is made and fitted.

    Attributes:
        channels: of the two convolutions.
        length: of the embedding.
        temperature: of the loss; lower looks harder at the most similar strangers.
        views: how two views of one scan may differ.
        loop: how long to fit; a batch has ``batch_size`` scans, so twice as many views.
    """

    channels: tuple[int, int] = (32, 64)
    length: int = Field(32, ge=2)
    temperature: float = Field(0.1, gt=0)
    views: ViewSettings = ViewSettings()
    loop: LoopSettings = LoopSettings(updates=300, batch_size=32, learning_rate=1e-3, decay="cosine", warmup=20)


class Encoder(nn.Module):
    """Patterns (B, 1, X, Y, Z) to embeddings (B, L)."""

    def __init__(self, settings: EmbeddingSettings) -> None:
        super().__init__()
        widths = (1, *settings.channels)
        stages = [
            nn.Sequential(nn.Conv3d(a, b, 3, stride=2, padding=1), nn.GroupNorm(1, b), nn.ReLU())
            for a, b in pairwise(widths)
        ]
        self.features = nn.Sequential(*stages, nn.Conv3d(widths[-1], 8, 1), nn.AdaptiveAvgPool3d(4), nn.Flatten())
        self.head = nn.Sequential(nn.Linear(8 * 4**3, 128), nn.ReLU(), nn.Linear(128, settings.length))

    def forward(self, scans: Tensor) -> Tensor:
        """Embed scans whose mean and deviation are taken away first: they belong to the scanner."""
        mean, deviation = scans.mean((1, 2, 3, 4), keepdim=True), scans.std((1, 2, 3, 4), keepdim=True)
        return self.head(self.features((scans - mean) / deviation.clamp(min=1e-6)))


class ContrastiveTask(Task):
    """The encoder with its loss; the views are drawn from torch's generator, which the loop seeds for each update."""

    def __init__(self, settings: EmbeddingSettings) -> None:
        super().__init__()
        self.encoder, self.settings = Encoder(settings), settings
        self.loss = ContrastiveLoss(settings.temperature)

    def forward(self, batch: Mapping[str, Any], player: str) -> dict[str, Tensor]:
        first, second = (self.encoder(draw_views(batch["image"], self.settings.views)) for _ in range(2))
        return {"loss": self.loss(first.float(), second.float())}


@dataclass(frozen=True)
class ScanBatches:
    """Shuffled epochs of scans (N, X, Y, Z); ``image`` (B, 1, X, Y, Z)."""

    scans: Tensor
    names: Sequence[str]
    batch_size: int
    seed: int

    def batch(self, update: int, rank: int = 0, world_size: int = 1) -> dict[str, Any]:
        size = min(self.batch_size, len(self.scans))  # a scan twice in a batch would be its own stranger
        places = range(rank * size, (rank + 1) * size)
        chosen = [pick(update, p, len(self.scans), self.seed, batch_size=size * world_size) for p in places]
        return {"image": self.scans[chosen][:, None], "names": [self.names[i] for i in chosen]}


def draw_views(scans: Tensor, settings: ViewSettings) -> Tensor:
    """Return one view of each scan, (B, 1, X, Y, Z), from torch's global generator."""
    count, shape, s = len(scans), scans.shape[2:], settings

    def evenly(*size: int) -> Tensor:
        return 2 * torch.rand(count, *size, device=scans.device) - 1

    angles = math.radians(s.rotation_degrees) * evenly(3)
    turn = torch.linalg.cross(torch.eye(3, device=scans.device).expand(count, 3, 3), angles[:, None])
    linear = torch.matrix_exp(turn) * s.scale ** evenly(1, 1)
    grid = F.affine_grid(torch.cat([linear, 2 * s.shift * evenly(3, 1)], 2), scans.shape, align_corners=False)
    bend = F.interpolate(2 * s.bend * evenly(3, 4, 4, 4), shape, mode="trilinear", align_corners=True)
    seen = F.grid_sample(scans, grid + bend.movedim(1, -1), padding_mode="border", align_corners=False)
    seen = seen * (1 + s.contrast) ** evenly(1, 1, 1, 1) + s.brightness * evenly(1, 1, 1, 1)
    seen = torch.lerp(seen, F.avg_pool3d(seen, 3, 1, 1), evenly(1, 1, 1, 1).abs())
    return seen + s.noise * evenly(1, 1, 1, 1) * torch.randn_like(seen)


def fit_encoder(scans: Tensor, names: Sequence[str], settings: EmbeddingSettings, run: RunFolder) -> Encoder:
    """Fit the encoder on scans (N, X, Y, Z); the same call again resumes or returns at once."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("network", run.seed))
        task = ContrastiveTask(settings)
    batches = ScanBatches(scans, names, settings.loop.batch_size, derive_seed("scans", run.seed))
    fit(task, batches, settings.loop, run, "copy detector")
    return task.encoder.cpu().eval()


@torch.inference_mode()
def embed(encoder: Encoder, scans: Tensor) -> Tensor:
    """Return embeddings (N, L) of scans (N, X, Y, Z), centred and of length 1: a product is a correlation."""
    found = torch.cat([encoder(part[:, None]) for part in scans.split(64)])
    found = found - found.mean(1, keepdim=True)
    return F.normalize(found, dim=1)


def correlations(encoder: Encoder, scan: Tensor, embeddings: Tensor) -> Tensor:
    """Return the similarity of a scan (X, Y, Z) with each of (N, L) embedded ones: (N,) in [-1, 1], its best look."""
    x, y, z = scan.shape
    looks = []
    for side in (scan, scan.flip(0)):
        room = F.pad(side[None, None], (1,) * 6, mode="replicate")[0, 0]
        looks += [room[i : i + x, j : j + y, k : k + z] for i, j, k in product(range(3), repeat=3)]
    return (embed(encoder, torch.stack(looks)) @ embeddings.T).amax(0).clamp(-1, 1)

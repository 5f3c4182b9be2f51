"""The contrastive encoder: its loss, its views, and that it tells patients apart that it has not seen."""

import math

import pytest
import torch
import torch.nn.functional as F

from voxpair.core.run import RunFolder
from voxpair.evaluation.audit.embedding import (
    ContrastiveTask,
    EmbeddingSettings,
    Encoder,
    ScanBatches,
    ViewSettings,
    correlations,
    draw_views,
    embed,
    fit_encoder,
)
from voxpair.training.loop import LoopSettings

NO_CHANGE = ViewSettings(rotation_degrees=0, scale=1, shift=0, bend=0, contrast=0, brightness=0, noise=0)


def scans(count, seed=0, size=12):
    made = torch.randn(count, 1, size, size, size, generator=torch.Generator().manual_seed(seed))
    return F.avg_pool3d(made, 3, 1, 1)[:, 0] * 4


def settings(updates):
    return EmbeddingSettings(loop=LoopSettings(updates=updates, batch_size=12, precision="32-true", warmup=5))


def test_the_loss_is_nt_xent():
    task = ContrastiveTask(settings(1))
    first, second = torch.randn(5, 32), torch.randn(5, 32)
    every = F.normalize(torch.cat([first, second]), dim=1)
    logits = (every @ every.T / 0.1).fill_diagonal_(-math.inf)
    expected = F.cross_entropy(logits, torch.arange(10).roll(5))
    assert float(task.loss(first, second)) == pytest.approx(float(expected), rel=1e-5)


def test_views_without_change_are_only_blurred_and_with_it_differ():
    image = torch.ones(2, 1, 12, 12, 12) * torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1, 1)
    inner = (..., *[slice(2, -2)] * 3)
    assert torch.allclose(draw_views(image, NO_CHANGE)[inner], image[inner], atol=1e-5)
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(draw_views(scans(3)[:, None], ViewSettings()))
    assert torch.equal(drawn[0], drawn[1]) and not torch.allclose(drawn[0], drawn[2])
    assert torch.isfinite(drawn[0]).all()


def test_views_turn_by_no_more_than_they_may():
    bar = torch.zeros(64, 1, 25, 25, 25)
    bar[:, 0, 12, 12] = 1  # along the last axis
    torch.manual_seed(0)
    turned = draw_views(bar, NO_CHANGE.model_copy(update={"rotation_degrees": 20.0}))
    places = torch.stack(torch.meshgrid(*[torch.arange(25.0) - 12] * 3, indexing="ij"))
    sines = []
    for view in turned[:, 0]:
        moments = torch.einsum("ixyz,jxyz,xyz->ij", places, places, view)
        sines.append(float(torch.linalg.eigh(moments).eigenvectors[:2, -1].norm()))
    limit = math.sin(math.radians(20) * math.sqrt(2))
    assert limit / 2 < max(sines) <= limit + 0.03


def test_a_batch_holds_no_scan_twice_and_is_a_pure_function():
    batches = ScanBatches(scans(7), [f"case{i}" for i in range(7)], 12, seed=3)
    first, again = batches.batch(4), batches.batch(4)
    assert sorted(first["names"]) == sorted(set(first["names"])) and len(first["names"]) == 7
    assert torch.equal(first["image"], again["image"]) and first["names"] == again["names"]


def test_embeddings_are_correlations_of_the_best_look():
    encoder = Encoder(settings(1)).eval()
    some = scans(4)
    embedded = embed(encoder, some)
    assert torch.allclose(embedded.mean(1), torch.zeros(4), atol=1e-6)
    assert torch.allclose(embedded.norm(dim=1), torch.ones(4), atol=1e-5)
    for look in (some[2], some[2].flip(0)):
        assert float(correlations(encoder, look, embedded)[2]) == pytest.approx(1.0, abs=1e-5)
    brighter = correlations(encoder, some[2] * 5 + 3, embedded)
    assert float(brighter[2]) == pytest.approx(1.0, abs=1e-4)


def test_a_fitted_encoder_knows_patients_it_has_not_seen_and_resumes(tmp_path):
    names = [f"case{i}" for i in range(24)]
    run = RunFolder(tmp_path, seed=1)
    encoder = fit_encoder(scans(24), names, settings(60), run)
    unseen = scans(20, seed=5)
    torch.manual_seed(0)
    views = draw_views(unseen[:, None], ViewSettings())[:, 0]

    def recognised(by):
        embedded = embed(by, unseen)
        return sum(int(correlations(by, view, embedded).argmax()) == i for i, view in enumerate(views))

    assert recognised(encoder) >= 16  # 1 of 20 would be chance
    log = (tmp_path / "metrics.jsonl").read_text()
    again = fit_encoder(scans(24), names, settings(60), run)
    assert (tmp_path / "metrics.jsonl").read_text() == log
    assert torch.equal(embed(again, unseen), embed(encoder, unseen))

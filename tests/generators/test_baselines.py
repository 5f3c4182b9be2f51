"""The image-only baselines: their losses in closed form, their shapes, and that a seed decides everything."""

import numpy as np
import pytest
import torch
from torch import nn

from voxpair.cohorts.cohort import CohortWriter
from voxpair.cohorts.datasets import PreparedCohort
from voxpair.cohorts.preprocess import Preprocessor, PreprocessSettings
from voxpair.core.case import Case
from voxpair.core.errors import InputError, RunError
from voxpair.core.labels import LabelTable
from voxpair.core.run import RunFolder, Silent, read_log
from voxpair.generators.medgen3d.baselines import (
    AlphaWGANSettings,
    AlphaWGANTask,
    SliceDDPM,
    SliceDDPMSettings,
    fit_alpha_wgan,
    fit_slice_ddpm,
    gradient_penalty,
    make_alpha_wgan,
)
from voxpair.generators.medgen3d.slice_diffusion import SliceDiffusionSettings
from voxpair.generators.medgen3d.views import AXES
from voxpair.training.loop import LoopSettings

TABLE = LabelTable.from_mapping("ball", {"background": 0, "ball": 1})
GRID = (8, 10, 6)
LOOP = LoopSettings(updates=2, batch_size=2, weight_decay=0, ema=0.5, precision="32-true", checkpoint_every_s=0)
SLICES = SliceDDPMSettings(
    diffusion=SliceDiffusionSettings(channels=(8, 8), attention=(False, False), head_channels=8, loop=LOOP),
    steps=3,
    slices_at_once=3,
)
VOLUMES = AlphaWGANSettings(code_length=5, channels=(4, 8), code_width=6, loop=LOOP)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("baselines")
    writer = CohortWriter(folder / "cohort", TABLE, "MRI")
    for index in range(4):
        image = np.random.default_rng(index).normal(100, 20, GRID).astype(np.float32)
        labels = np.zeros(GRID, np.uint8)
        labels[2:5, 3:7, 2:4] = 1
        writer.add(Case(f"case_{index}", image, labels if index else None, np.eye(4), TABLE, patient=f"p{index}"))
    preprocessor = Preprocessor(PreprocessSettings(grid=GRID, fit="crop_or_pad"), TABLE, "MRI")
    return PreparedCohort.build(writer.finish(), preprocessor, folder / "cache")


class Gaussian(nn.Module):
    """The best noise predictor for slices of white texture with one mean and SD."""

    def __init__(self, process, mean, sd):
        super().__init__()
        self.process, self.mean, self.sd = process, mean, nn.Parameter(torch.tensor(sd))

    def forward(self, x, network_time):
        signal, sigma = self.process.scales((network_time * self.process.levels / 1000).round().long(), x)
        return sigma * (x - signal * self.mean) / (signal**2 * self.sd**2 + sigma**2)


@pytest.mark.parametrize(("sampler", "steps"), [("dpm_solver", 40), ("ddpm", None)])
def test_slices_have_the_mean_and_texture_that_the_network_knows(sampler, steps):
    model = SliceDDPM(SLICES.model_copy(update={"steps": steps, "sampler": sampler}))
    model.networks.by_view["coronal"] = Gaussian(model.process, mean=0.2, sd=0.1)
    made = 2 * model.sample("coronal", (20, 30), 3, seed=0) - 1
    assert made.shape == (3, 20, 30)
    assert made.mean() == pytest.approx(0.2, abs=0.02) and made.std() == pytest.approx(0.1, rel=0.08)


def test_a_slice_depends_on_its_index_not_on_how_many_are_asked_for():
    torch.manual_seed(0)
    model = SliceDDPM(SLICES).eval()
    five, two, other = (model.sample("axial", (7, 9), n, seed) for n, seed in ((5, 1), (2, 1), (2, 2)))
    assert five.shape == (5, 7, 9) and five.min() >= 0 and five.max() <= 1
    assert np.array_equal(five[:2], two) and not np.array_equal(two, other)
    assert len({slice_.tobytes() for slice_ in five}) == 5
    assert not np.array_equal(two, model.sample("coronal", (7, 9), 2, 1))


def test_an_unknown_view_is_refused():
    with pytest.raises(InputError, match="no view 'oblique'; there are axial, coronal, sagittal"):
        SliceDDPM(SLICES).sample("oblique", (8, 8), 1, 0)


def test_a_diverged_baseline_is_named():
    model = SliceDDPM(SLICES)
    model.networks.by_view["axial"] = Gaussian(model.process, mean=float("nan"), sd=0.1)
    with pytest.raises(RunError, match="diverged"):
        model.sample("axial", (8, 8), 1, 0)


@pytest.mark.parametrize("weight", [0.0, 1.0, 3.0])
def test_the_penalty_of_a_linear_critic_is_how_far_its_slope_is_from_one(weight):
    slope = torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(0))
    slope = weight * slope / slope.norm()
    real, fake = torch.randn(4, 1, 2, 3), torch.randn(4, 1, 2, 3)
    found = gradient_penalty(lambda x: (x * slope).flatten(1).sum(1), real, fake)
    assert float(found) == pytest.approx((weight - 1) ** 2, abs=1e-5)


def test_the_penalty_is_taken_between_real_and_fake_and_trains_the_critic():
    real, fake, scale = torch.zeros(500, 1), torch.full((500, 1), 2.0), torch.tensor(1.0, requires_grad=True)
    torch.manual_seed(0)
    found = gradient_penalty(lambda x: scale * x.square() / 2, real, fake)  # slope x, uniform in [0, 2]
    assert found.item() == pytest.approx(1 / 3, abs=0.05)
    found.backward()
    assert scale.grad is not None and float(scale.grad) != 0


class Says(nn.Module):
    """A function as a network."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def test_the_three_losses_are_those_of_the_paper():
    torch.manual_seed(0)
    task = AlphaWGANTask(make_alpha_wgan(VOLUMES, GRID)).eval()
    task.model.decode = lambda codes: codes.mean(1).reshape(-1, 1, 1, 1, 1).expand(-1, 1, *task.model.inner_shape)
    task.model.encoder = Says(lambda volumes: torch.full((len(volumes), 5), 0.25))
    task.critic = Says(lambda volumes: 3 * volumes.flatten(1).mean(1))
    task.code_critic = Says(lambda codes: codes.sum(1))
    batch = {"image": torch.full((2, 1, *GRID), 0.75)}  # 0.5 within [-1, 1]

    def losses(player):
        torch.manual_seed(1)
        return {key: float(value) for key, value in task(batch, player).items()}

    torch.manual_seed(1)
    code = torch.randn(2, 5)
    drawn, rebuilt, real, coded = 3 * code.mean().item(), 3 * 0.25, 3 * 0.5, 5 * 0.25
    slope, code_slope = 3 / np.sqrt(np.prod(task.model.inner_shape)), np.sqrt(5)
    assert losses("critic")["loss"] == pytest.approx(drawn + rebuilt - 2 * real + 10 * 2 * (slope - 1) ** 2, abs=1e-4)
    expected = coded - code.sum(1).mean().item() + 10 * (code_slope - 1) ** 2
    assert losses("code_critic")["loss"] == pytest.approx(expected, abs=1e-4)
    assert losses("model")["error"] == pytest.approx(0.25, abs=1e-6)
    assert losses("model")["loss"] == pytest.approx(10 * 0.25 - drawn - rebuilt - coded, abs=1e-4)


def test_every_player_is_moved_by_its_own_loss_and_critics_leave_the_generator_alone():
    torch.manual_seed(0)
    task = AlphaWGANTask(make_alpha_wgan(VOLUMES, GRID))
    players, batch = task.players(), {"image": torch.rand(2, 1, *GRID)}
    assert sum(map(len, players.values())) == len(list(task.parameters()))
    for player in ("critic", "code_critic", "model"):
        task.zero_grad(set_to_none=True)
        task(batch, player)["loss"].backward()
        moved = [p for p in players[player] if p.grad is not None and p.grad.abs().sum() > 0]
        assert len(moved) > len(players[player]) / 2
        if player != "model":
            assert all(p.grad is None for p in players["model"])


@pytest.mark.parametrize("shape", [(8, 8, 8), (5, 9, 13), (3, 16, 1)])
def test_volumes_of_any_shape(shape):
    model = make_alpha_wgan(VOLUMES, shape).eval()
    assert all(n % 4 == 0 and 0 <= n - m < 4 for n, m in zip(model.inner_shape, shape))
    assert model.pad(torch.rand(1, 1, *shape)).shape[2:] == model.inner_shape
    volume = model.sample(0)
    assert volume.shape == shape and volume.dtype == np.float32 and 0 <= volume.min() <= volume.max() <= 1
    assert np.array_equal(volume, model.sample(0)) and not np.array_equal(volume, model.sample(1))


class Kill(Silent):
    """Breaks a fit off after its first update."""

    def advance(self, steps=1, **numbers):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("fit", "settings", "logged"),
    [
        (fit_slice_ddpm, SLICES, {f"{view}_loss" for view in AXES}),
        (fit_alpha_wgan, VOLUMES, {"loss", "error", "critic_loss", "gap", "code_critic_loss", "code_gap"}),
    ],
)
def test_interrupted_is_uninterrupted(fit, settings, logged, prepared, tmp_path):
    whole = fit(prepared, settings, RunFolder(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        fit(prepared, settings, RunFolder(tmp_path / "cut", progress=Kill()))
    resumed = fit(prepared, settings, RunFolder(tmp_path / "cut"))
    log = read_log(tmp_path / "cut" / "metrics.jsonl")
    assert [record["update"] for record in log] == [1, 2] and logged <= set(log[0])
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in whole.state_dict().items())

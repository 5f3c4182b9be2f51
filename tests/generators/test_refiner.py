"""The refiner: views, what its networks are shown, how three views become one volume, and that texture survives."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import ndimage
from torch import nn

from voxpair.cohorts.cohort import CohortWriter
from voxpair.cohorts.datasets import PreparedCohort
from voxpair.cohorts.preprocess import Preprocessor, PreprocessSettings
from voxpair.core.case import Case
from voxpair.core.errors import InputError, RunError
from voxpair.core.labels import LabelTable
from voxpair.core.run import RunFolder, Silent, read_log
from voxpair.diffusion.sampler import dpm_solver
from voxpair.generators.medgen3d.refiner import RefinerSettings, RefinerWalk, fit_refiner, make_refiner
from voxpair.generators.medgen3d.slice_diffusion import SliceDiffusionSettings, SliceDiffusionTask, levels_down
from voxpair.generators.medgen3d.views import AXES, SliceBatches, from_slices, labelled, padded, to_slices
from voxpair.training.loop import LoopSettings
from voxpair.training.state import load_weights, save_weights

TABLE = LabelTable.from_mapping("balls", {"background": 0, "shell": 2, "core": 5})
GRID = (12, 10, 6)  # 6 is no multiple of 4
LOOP = LoopSettings(updates=2, batch_size=2, ema=0.5, precision="32-true", checkpoint_every_s=0)
SMALL = SliceDiffusionSettings(channels=(8, 8, 8), attention=(False,) * 3, head_channels=8, label_width=4, loop=LOOP)
SETTINGS = RefinerSettings(diffusion=SMALL)
WALK = RefinerWalk(start=100, steps=4)
FLAT = SMALL.model_copy(update={"channels": (8, 8), "attention": (False, False)})


def a_case(index, has_labels=True):
    random = np.random.default_rng(index)
    distance = np.linalg.norm(np.indices(GRID) - np.array(GRID).reshape(3, 1, 1, 1) / 2, axis=0)
    labels = np.where(distance < 2, 5, np.where(distance < 4 + index % 2, 2, 0)).astype(np.uint8)
    image = (100.0 * labels + random.normal(0, 20, GRID)).astype(np.float32)
    return Case(f"case_{index}", image, labels if has_labels else None, np.eye(4), TABLE, patient=f"p{index}")


def prepare(folder, cases):
    writer = CohortWriter(folder / "cohort", TABLE, "MRI")
    for case in cases:
        writer.add(case)
    preprocessor = Preprocessor(PreprocessSettings(grid=GRID, fit="crop_or_pad"), TABLE, "MRI")
    return PreparedCohort.build(writer.finish(), preprocessor, folder / "cache")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("refiner"), [a_case(i, has_labels=i != 1) for i in range(4)])


class White(nn.Module):
    """The best noise predictor for white texture of one SD and a mean per class, known in closed form.

    For x_0 ~ N(m, d^2): E[eps | x_t] = sigma (x_t - a m) / (a^2 d^2 + sigma^2).
    """

    def __init__(self, process, sd, means=(0.0, 0.0, 0.0)):
        super().__init__()
        self.process, self.sd, self.seen = process, sd, []
        self.means = nn.Parameter(torch.tensor(means))

    def forward(self, x, network_time, one_hot):
        self.seen.append((tuple(x.shape), one_hot))
        time = (network_time * self.process.levels / 1000).round().long()
        signal, sigma = self.process.scales(time, x)
        mean = (one_hot * self.means.reshape(1, -1, 1, 1)).sum(1, keepdim=True)
        return sigma * (x - signal * mean) / (signal**2 * self.sd**2 + sigma**2)


def white_refiner(settings, sd=0.2, means=(0.0, 0.0, 0.0)):
    refiner = make_refiner(settings, classes=3)
    refiner.networks.by_view = nn.ModuleDict({view: White(refiner.process, sd, means) for view in AXES})
    return refiner.eval()


def settings(**changes):
    return RefinerSettings(**{**SETTINGS.model_dump(), **changes})


def walk(**changes):
    return RefinerWalk(**{**WALK.model_dump(), **changes})


def test_views_cut_along_their_axis_and_come_back():
    volume = torch.arange(24).reshape(1, 2, 3, 4)
    shapes = {view: tuple(to_slices(volume, view).shape) for view in AXES}
    assert shapes == {"axial": (4, 1, 2, 3), "coronal": (3, 1, 2, 4), "sagittal": (2, 1, 3, 4)}
    assert torch.equal(to_slices(volume, "coronal")[1], volume[:, :, 1])
    assert all(torch.equal(from_slices(to_slices(volume, view), view), volume) for view in AXES)


def test_batches_hold_real_slices_with_their_own_labels(prepared):
    batches = SliceBatches(prepared, 3, 4, seed=0)
    cases = {case.name: case for case in prepared}
    for update in range(3):
        batch = batches.batch(update)
        for view, axis in AXES.items():
            for i, name in enumerate(batch["names"]):
                image, labels = batch[f"{view}_image"][i, 0].numpy(), batch[f"{view}_labels"][i, 0].numpy()
                slices = np.moveaxis(cases[name].image, axis, 0)
                place = next(k for k, one in enumerate(slices) if np.array_equal(padded(one, 4), image))
                if cases[name].labels is None:
                    assert not labels.any()
                else:
                    assert np.array_equal(padded(np.moveaxis(cases[name].labels, axis, 0)[place], 4), labels)
    assert batch["axial_image"].shape == (3, 1, 12, 12) and batch["sagittal_image"].shape == (3, 1, 12, 8)


def test_a_batch_is_a_function_of_the_update_and_ranks_share_it_out(prepared):
    whole, half = SliceBatches(prepared, 4, 4, seed=3), SliceBatches(prepared, 2, 4, seed=3)
    first, again, later = whole.batch(5), whole.batch(5), whole.batch(6)
    assert torch.equal(first["axial_image"], again["axial_image"])
    assert not torch.equal(first["axial_image"], later["axial_image"])
    parts = [half.batch(5, rank, 2)["coronal_image"] for rank in (0, 1)]
    assert torch.equal(first["coronal_image"], torch.cat(parts))


def test_only_annotated_cases_condition_images(prepared, tmp_path):
    assert labelled(prepared).names == ("case_0", "case_2", "case_3")
    nobody = prepare(tmp_path, [a_case(0, has_labels=False)])
    with pytest.raises(InputError, match="none of the 1 training cases has labels"):
        fit_refiner(nobody, SETTINGS, RunFolder(tmp_path / "run"))


def test_labels_are_hidden_as_often_as_asked_and_then_carry_nothing():
    refiner = white_refiner(settings(drop=0.3))
    task = SliceDiffusionTask(refiner.networks, refiner.process, drop=0.3)
    torch.manual_seed(0)
    batch = {"axial_image": torch.rand(2000, 1, 2, 2), "axial_labels": torch.ones(2000, 1, 2, 2, dtype=torch.long)}
    task(batch, "axial")
    one_hot = refiner.networks.by_view["axial"].seen[0][1]
    hidden = (one_hot == 0).all(dim=(1, 2, 3))
    assert abs(hidden.float().mean() - 0.3) < 0.04  # four standard errors
    assert (one_hot[~hidden] == torch.tensor([0.0, 1, 0]).reshape(1, 3, 1, 1)).all()


def test_every_view_is_a_player_that_moves_its_own_network_alone():
    refiner = make_refiner(SETTINGS, classes=3)
    task = SliceDiffusionTask(refiner.networks, refiner.process, 0.2)
    players = task.players()
    assert list(players) == list(AXES)
    batch = {"coronal_image": torch.rand(2, 1, 8, 8), "coronal_labels": torch.zeros(2, 1, 8, 8, dtype=torch.long)}
    task(batch, "coronal")["loss"].backward()
    assert all(p.grad is not None for p in players["coronal"])
    assert all(p.grad is None for view in ("axial", "sagittal") for p in players[view])


def test_each_view_is_shown_its_own_slices_padded_to_what_its_network_needs():
    refiner, how = white_refiner(SETTINGS), walk(slices_at_once=5, guidance=1.0)
    refiner.refine(np.full(GRID, 0.5, np.float32), np.zeros(GRID, np.uint8), 0, how)
    seen = {view: {shape for shape, _ in refiner.networks.by_view[view].seen} for view in AXES}
    assert seen["axial"] == {(5, 1, 12, 12), (3, 1, 12, 12)}  # 8 slices in two parts
    assert seen["coronal"] == seen["sagittal"] == {(5, 1, 12, 8), (2, 1, 12, 8)}


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm_solver"])
@pytest.mark.parametrize("fusion", ["in_step", "mean"])
def test_a_network_that_knows_the_clean_volume_gives_it_back(sampler, fusion):
    classes = np.random.default_rng(0).integers(0, 3, GRID)
    refiner = white_refiner(SETTINGS, sd=0.0, means=(-0.5, 0.0, 0.8))
    how = walk(sampler=sampler, fusion=fusion, guidance=1.0)
    refined = refiner.refine(np.full(GRID, 0.3, np.float32), classes, 1, how)
    assert refined.shape == GRID and refined.dtype == np.float32
    assert np.allclose(refined, np.array([0.25, 0.5, 0.9])[classes], atol=1e-5)


def test_guidance_goes_past_the_labels_by_its_factor():
    """With means m for the class and 0 for the null condition, guided noise is that of a mean of s m."""
    image, classes = np.full(GRID, 0.5, np.float32), np.ones(GRID, int)
    made = {
        s: white_refiner(SETTINGS, sd=0.0, means=(0.0, 0.4, 0.0)).refine(image, classes, 0, walk(guidance=s))
        for s in (1.0, 1.5)
    }
    assert np.allclose(made[1.0], (0.4 + 1) / 2, atol=1e-5) and np.allclose(made[1.5], (0.6 + 1) / 2, atol=1e-5)


def fine_power(volume):
    """Variance of what is finer than about four voxels."""
    return float(np.var(volume - ndimage.gaussian_filter(volume, 1.5)))


def power_of_texture(start, sd=0.1, into_sd=0.0, **changes):
    """Fine power after a walk over that of white texture of SD ``sd``; the volume walked from has ``into_sd``."""
    shape = (24, 24, 24)
    random = np.random.default_rng(0)
    painted, real = (0.5 + random.normal(0, amount / 2, shape) for amount in (into_sd, sd))
    refiner, how = white_refiner(settings(trained_to=1000), sd), walk(start=start, guidance=1.0, **changes)
    return fine_power(refiner.refine(painted, np.zeros(shape, int), 0, how)) / fine_power(real)


def test_one_walk_keeps_the_texture_that_the_mean_of_three_walks_loses():
    """Into a smooth volume one walk brings the whole power of white texture, the mean of three walks a third of it."""
    in_step, mean = (
        power_of_texture(200, steps=30, sampler="dpm_solver", fusion=fusion) for fusion in ("in_step", "mean")
    )
    assert in_step == pytest.approx(1, abs=0.1)
    assert mean / in_step == pytest.approx(1 / 3, rel=0.1)


def test_the_papers_ten_levels_and_mean_lose_power_of_texture_that_was_there():
    """Ten levels replace little, so less than two thirds are lost, but some is; one walk loses none."""
    paper = power_of_texture(10, into_sd=0.1, steps=None, sampler="ddpm", fusion="mean")
    ours = power_of_texture(10, into_sd=0.1, steps=None, sampler="dpm_solver", fusion="in_step")
    assert 0.7 < paper < 0.93 and ours == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("start", "amplitude"), [(10, 0.40), (50, 0.86), (100, 0.97)])
def test_how_much_texture_a_smooth_volume_gets_is_as_the_settings_say(start, amplitude):
    found = power_of_texture(start, steps=8, sampler="dpm_solver") ** 0.5
    assert found == pytest.approx(amplitude, abs=0.03)


def test_steps_that_shorten_towards_clean_keep_texture_that_equal_steps_lose():
    found = power_of_texture(100, sd=0.03, steps=10, sampler="dpm_solver") ** 0.5
    assert found == pytest.approx(0.95, abs=0.03)
    process, sd = SMALL.process(1000), 0.03
    noisy = torch.randn(1, 1, 40_000, generator=torch.Generator().manual_seed(0))
    noisy = noisy * (1 - process.alpha_bars[100]).sqrt().float()

    def network(x, time):
        signal, sigma = process.scales(time, x)
        return sigma * x / (signal**2 * sd**2 + sigma**2)

    equal, cubic = (
        float(dpm_solver(network, process, noisy, levels).std()) / sd
        for levels in (torch.arange(100, -1, -10), levels_down(100, 10))
    )
    assert equal == pytest.approx(0.56, abs=0.02) and cubic == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("start", [1, 2, 10, 57, 1000])
@pytest.mark.parametrize("steps", [1, 3, 10, 2000, None])
def test_levels_fall_from_start_to_clean_and_none_comes_twice(start, steps):
    levels = levels_down(start, steps)
    assert levels[0] == start and levels[-1] == 0 and (levels.diff() < 0).all()
    assert len(levels) - 1 <= min(start, steps or start)


def test_little_noise_leaves_anatomy_where_it_is():
    image = np.clip(0.5 + 0.1 * ndimage.gaussian_filter(np.random.default_rng(0).normal(size=GRID), 2) / 0.1, 0, 1)
    little, much = (
        white_refiner(settings(trained_to=200), sd=0.5).refine(image, np.zeros(GRID, int), 0, walk(start=start))
        for start in (10, 200)
    )
    assert np.abs(little - image).std() < 0.03 < np.abs(much - image).std()


def test_same_seed_same_volume_other_seed_other_volume():
    torch.manual_seed(0)
    refiner = make_refiner(SETTINGS, classes=3).eval()
    image, classes = np.random.default_rng(0).random(GRID), np.random.default_rng(1).integers(0, 3, GRID)
    one, again, other = (refiner.refine(image, classes, seed) for seed in (1, 1, 2))
    assert np.array_equal(one, again) and not np.array_equal(one, other)
    assert one.min() >= 0 and one.max() <= 1


def test_a_slab_of_one_slice_can_be_refined():
    refined = make_refiner(SETTINGS, classes=3).eval().refine(np.full((5, 9, 1), 0.5), np.zeros((5, 9, 1), int), 0)
    assert refined.shape == (5, 9, 1) and np.isfinite(refined).all()


@pytest.mark.parametrize(
    ("image", "classes", "reason"),
    [
        (np.zeros(GRID), np.zeros((12, 10, 8), int), "volumes of one shape"),
        (np.zeros((4, 4)), np.zeros((4, 4), int), "volumes of one shape"),
        (np.full(GRID, 1.2), np.zeros(GRID, int), r"within \[0, 1\]"),
        (np.full(GRID, np.nan), np.zeros(GRID, int), "finite"),
        (np.zeros(GRID), np.full(GRID, 3), "class indices 0 to 2, got 3 to 3"),
    ],
)
def test_what_does_not_fit_is_refused(image, classes, reason):
    with pytest.raises(InputError, match=reason):
        white_refiner(SETTINGS).refine(image, classes, 0)


def test_a_diverged_fit_is_named():
    with pytest.raises(RunError, match="diverged"):
        white_refiner(SETTINGS, means=(float("nan"),) * 3).refine(np.zeros(GRID), np.zeros(GRID, int), 0)


def test_a_walk_that_the_fit_does_not_bear_is_refused():
    with pytest.raises(InputError, match=r"fitted up to noise level 100 .* begin at 300"):
        white_refiner(SETTINGS).refine(np.zeros(GRID), np.zeros(GRID, int), 0, walk(start=300))
    with pytest.raises(InputError, match="hid the labels"):
        white_refiner(settings(drop=0.0)).refine(np.zeros(GRID), np.zeros(GRID, int), 0, walk(guidance=1.5))
    with pytest.raises(ValidationError, match="in_step"):
        walk(fusion="median")
    with pytest.raises(ValidationError, match="above the levels"):
        settings(trained_to=1001)


def test_the_papers_ten_steps_are_texture_only():
    process = RefinerSettings().diffusion.process(200)
    assert float((1 - process.alpha_bars[10]).sqrt()) == pytest.approx(0.0435, abs=5e-4)  # 44 HU of a 2000 HU window


class Kill(Silent):
    """Breaks a fit off after its first update."""

    def advance(self, steps=1, **numbers):
        raise KeyboardInterrupt


def test_interrupted_is_uninterrupted_and_weights_come_back(prepared, tmp_path):
    chosen = settings(diffusion=FLAT)
    whole = fit_refiner(prepared, chosen, RunFolder(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        fit_refiner(prepared, chosen, RunFolder(tmp_path / "cut", progress=Kill()))
    resumed = fit_refiner(prepared, chosen, RunFolder(tmp_path / "cut"))
    log = read_log(tmp_path / "cut" / "metrics.jsonl")
    assert [record["update"] for record in log] == [1, 2] and {f"{view}_loss" for view in AXES} <= set(log[0])
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    save_weights(tmp_path / "weights.safetensors", whole)
    loaded = make_refiner(chosen, TABLE.classes).eval()
    load_weights(tmp_path / "weights.safetensors", loaded)
    image, classes = prepared[0].image, prepared[0].labels
    assert np.array_equal(loaded.refine(image, classes, 0), whole.refine(image, classes, 0))


def test_a_fit_learns_what_each_class_looks_like(prepared, tmp_path):
    """From nothing but a grey volume and labels, classes come out in the order of their real intensities."""
    longer = LOOP.model_copy(update={"updates": 30, "batch_size": 4, "learning_rate": 1e-2, "checkpoint_every_s": 99})
    diffusion = FLAT.model_copy(update={"loop": longer})
    chosen = RefinerSettings(diffusion=diffusion, trained_to=1000)
    refiner = fit_refiner(prepared, chosen, RunFolder(tmp_path / "run"))
    case = prepared[0]
    refined = refiner.refine(np.full(GRID, 0.5, np.float32), case.labels, 0, RefinerWalk(start=900, steps=8))
    background, shell, core = (refined[case.labels == k].mean() for k in range(3))
    assert background < shell - 0.05 and shell < core - 0.05, (background, shell, core)

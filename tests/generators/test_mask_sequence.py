"""MC-DPM: windows, loss and the walk over a volume, against closed forms and a denoiser that knows the answer."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from voxpair.core.errors import InputError, RunError
from voxpair.core.labels import LabelTable
from voxpair.core.run import RunFolder, Silent
from voxpair.generators.medgen3d.mask_sequence import (
    MaskSampling,
    MaskSequence,
    MaskSequenceSettings,
    MaskSequenceTask,
    fit_mask_sequence,
)
from voxpair.generators.medgen3d.seams import jump, seam
from voxpair.generators.medgen3d.windows import WindowBatches, plan_windows, relative_position
from voxpair.training.loop import LoopSettings
from voxpair.training.state import load_weights, save_weights

TABLE = LabelTable.from_mapping("two", {"background": 0, "a": 1, "b": 2})


def settings(updates=4, **changes):
    loop = LoopSettings(updates=updates, batch_size=4, precision="32-true", checkpoint_every_s=0, ema=0.5)
    small = {"channels": (8, 8), "attention": (False, False), "head_channels": 8, "loop": loop}
    return MaskSequenceSettings(**(small | changes))


class Cases(list):
    """What a fit needs of a prepared cohort."""

    label_table = TABLE


def volume(depth=13, size=(8, 8), phase=0):
    """Class 1 in columns that move with the slice, class 2 in the upper third: every slice tells where it lies."""
    classes = np.zeros((*size, depth), np.uint8)
    for z in range(depth):
        column = (z + phase) % size[0]
        classes[column, :, z] = 2 if z > 2 * depth / 3 else 1
    return classes


def cases(count=3, **kind):
    return Cases(SimpleNamespace(name=f"case_{i}", labels=volume(phase=i, **kind)) for i in range(count))


class Oracle(MaskSequence):
    """Gives exactly the noise of one volume, whatever it is shown, and keeps a record of what that was."""

    def __init__(self, settings, truth):
        super().__init__(settings, TABLE.classes)
        self.truth, self.seen = truth, []
        self.fitted_on.copy_(torch.tensor([*truth.shape[:2], truth.shape[2], truth.shape[2]]))

    def forward(self, codes, network_time, known, position):
        depth, m, process = self.truth.shape[2], self.settings.window, self.process
        z = round(float(position[0, 0]) * depth)
        clean = self.encode(torch.from_numpy(np.moveaxis(self.truth[:, :, z : z + m], 2, 0))[None])
        self.seen.append((z, codes, known, clean))
        signal, sigma = process.scales(network_time.long(), codes)
        noise = (codes - signal * clean) / sigma
        return noise if process.prediction == "epsilon" else signal * noise - sigma * clean


@pytest.mark.parametrize("depth", [6, 7, 9, 10, 23])
@pytest.mark.parametrize("known", [1, 2, 5])
def test_every_slice_is_drawn_and_known_slices_are_there_before_they_are_needed(depth, known):
    for start in range(depth - 6 + 1):
        filled = set()
        for i, (z, given) in enumerate(plan_windows(depth, start, 6, known)):
            slices = range(z, z + 6)
            assert 0 <= z <= depth - 6 and len(given) == 6
            held = {s for s, g in zip(slices, given) if g}
            assert held <= filled and len(held) == (known if i else 0)
            # Nothing that later windows rely on is torn: what is drawn again ends where the volume ends.
            redrawn = {s for s, g in zip(slices, given) if not g} & filled
            assert not redrawn or z in (0, depth - 6)
            filled |= set(slices)
        assert filled == set(range(depth))


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "cosine"])
@pytest.mark.parametrize("levels", [10, 100, 1000, 4000])
def test_at_the_last_level_there_is_next_to_nothing_but_noise_whatever_their_number(levels, schedule):
    """Or the first window would begin from noise that the network has never seen."""
    assert 0 < float(settings(levels=levels, schedule=schedule).process().alpha_bars[-1]) < 2e-3


@pytest.mark.parametrize("code", ["one_hot", "scalar"])
def test_codes_come_back_and_lie_between_minus_one_and_one(code):
    model = MaskSequence(settings(label_code=code, prediction="v"), TABLE.classes)
    classes = torch.randint(0, 3, (2, 6, 8, 8), generator=torch.Generator().manual_seed(0))
    encoded = model.encode(classes)
    assert encoded.shape == (2, 6 * model.code_channels, 8, 8) and float(encoded.abs().max()) <= 1
    assert torch.equal(model.decode(encoded + 0.2), classes)


def test_half_way_between_two_classes_the_scalar_code_decodes_to_a_third_and_one_hot_never():
    ends = [torch.full((1, 6, 8, 8), k) for k in (0, 2)]
    for code, third in (("scalar", True), ("one_hot", False)):
        model = MaskSequence(settings(label_code=code, prediction="v"), TABLE.classes)
        between = model.decode(sum(map(model.encode, ends)) / 2)
        assert bool((between == 1).any()) is third


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_the_loss_is_that_of_the_unknown_slices_and_known_ones_enter_clean(prediction):
    model = Oracle(settings(prediction=prediction), volume(depth=6))
    task, batch = MaskSequenceTask(model), window_of(model.truth)
    model.output = model.forward
    assert float(task(batch, "model")["loss"]) == pytest.approx(0, abs=1e-6)
    _, codes, shown, clean = model.seen[-1]
    assert torch.equal(shown, batch["known"])
    assert torch.equal(codes[:, :6], clean[:, :6]) and not torch.isclose(codes[:, 6:], clean[:, 6:]).all()

    # One unit too much in an unknown slice costs its share of four; in a known one it costs nothing.
    for channels, cost in ((slice(0, 6), 0), (slice(6, 9), 1 / 4)):
        model.output = wrong(model, channels)
        assert float(task(batch, "model")["loss"]) == pytest.approx(cost, abs=1e-5)


def test_the_cross_entropy_is_that_of_the_unknown_slices():
    model = MaskSequence(settings(), TABLE.classes)
    batch = window_of(volume(depth=6))
    sure = 30 * model.encode(batch["slices"])
    for channels, cost in ((slice(0, 0), 0), (slice(0, 6), 0), (slice(6, 9), np.log(3) / 4)):
        logits = sure.clone()
        logits[:, channels] = 0  # a slice of which nothing is known: log K per voxel
        model.output = lambda *_, logits=logits: logits
        assert float(MaskSequenceTask(model)(batch, "model")["loss"]) == pytest.approx(cost, abs=1e-5)


def test_place_time_and_every_indicator_reach_the_network():
    torch.manual_seed(0)
    model = MaskSequence(settings(), TABLE.classes).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)  # its last layers begin at nought
    codes, time, place = torch.randn(1, 18, 8, 8), torch.tensor([500.0]), torch.tensor([[0.25, 0.5]])
    known = torch.tensor([[1.0, 0, 0, 0, 0, 0]])

    def differs(time=time, known=known, place=place):
        with torch.no_grad():
            return float((model.output(codes, time, known, place) - model.output(codes, *usual)).abs().max()) > 1e-3

    usual = (time, known, place)
    assert not differs()
    assert differs(time=time + 100)
    assert differs(place=place + torch.tensor([0.1, 0.0])) and differs(place=place + torch.tensor([0.0, 0.1]))
    assert all(differs(known=(known - torch.eye(6)[i]).abs()[0][None]) for i in range(6))


def test_fitted_on_volumes_whose_lower_half_is_one_class_it_knows_from_its_place_which(tmp_path):
    """Shown pure noise and a place, the network says what lies there; the same noise elsewhere is the other class."""
    halves = np.ones((8, 8, 16), np.uint8)
    halves[..., 8:] = 2
    loop = LoopSettings(updates=60, batch_size=16, learning_rate=1e-2, precision="32-true", ema=0.5)
    model = fit_mask_sequence(
        Cases([SimpleNamespace(name="case", labels=halves)]), settings(loop=loop), RunFolder(tmp_path)
    )
    noise, nothing, time = torch.randn(1, 18, 8, 8), torch.zeros(1, 6), torch.tensor([999.0])
    right = []
    for z in range(11):
        with torch.no_grad():
            said = model.decode(model.output(noise, time, nothing, relative_position(z, 16, 6)[None]))[0]
        right.append((said == torch.from_numpy(halves[0, 0, z : z + 6])[:, None, None]).float().mean())
    assert min(right[0], right[-1]) > 0.95 and np.mean(right) > 0.85


def window_of(truth):
    slices = torch.from_numpy(np.moveaxis(truth, 2, 0))[None]
    known = torch.tensor([[True, True, False, False, False, False]])
    return {"slices": slices, "known": known, "position": relative_position(0, 6, 6)[None]}


def wrong(model, channels):
    def output(*inputs):
        given = model.forward(*inputs).clone()
        given[:, channels] += 1
        return given

    return output


@pytest.mark.parametrize("code", ["one_hot", "scalar"])
@pytest.mark.parametrize(
    "sampling",
    [
        MaskSampling(sampler="ddim", steps=4, first_window="random"),
        MaskSampling(sampler="dpm_solver", steps=4, guidance=3, first_window="random"),
        MaskSampling(sampler="ddpm", steps=10, first_window="random"),
    ],
)
def test_a_denoiser_that_knows_a_volume_gives_it_back_from_any_start(code, sampling):
    truth = volume()
    for prediction in ("epsilon", "v"):
        model = Oracle(settings(label_code=code, prediction=prediction), truth)
        for seed in range(3):
            assert np.array_equal(model.sample(truth.shape, seed, sampling), truth)
        assert len({z for z, *_ in model.seen}) > 3


class Absorbing(Oracle):
    """Draws what is true, but nothing behind slices that are empty: what a short fit learns of where labels begin."""

    def forward(self, codes, network_time, known, position):
        shown = known[0].bool()
        held = self.decode(codes)[:, shown]
        if not shown.any() or held.any():
            return super().forward(codes, network_time, known, position)
        kept, self.truth = self.truth, np.zeros_like(self.truth)
        try:
            return super().forward(codes, network_time, known, position)
        finally:
            self.truth = kept


def test_a_walk_that_begins_among_labels_loses_none_to_a_network_that_keeps_empty_what_is_empty():
    truth = np.zeros((8, 8, 24), np.uint8)
    truth[2:6, 2:6, 10:20] = 1
    model = Absorbing(settings(), truth)
    model.fullest.fill_(WindowBatches(Cases([SimpleNamespace(name="a", labels=truth)]), settings(), seed=0).fullest())
    anywhere = [model.sample(truth.shape, i, MaskSampling(steps=2, first_window="random")) for i in range(8)]
    assert {bool(volume.any()) for volume in anywhere} == {True, False}
    assert all(np.array_equal(model.sample(truth.shape, i, MaskSampling(steps=2)), truth) for i in range(8))


def test_the_fullest_height_has_most_structures_and_then_most_labels():
    """As in a chest, class 1 is everywhere, and most of all where nothing else is; class 2 lies in slices 6 to 8 of all
    volumes, and is largest in slice 7."""
    volumes = np.zeros((3, 8, 8, 16), np.uint8)
    for volume, (low, high) in zip(volumes, ((2, 9), (4, 12), (6, 16))):
        volume[:2], volume[:6, :, 0] = 1, 1
        volume[4, 4:6, low:high] = 2
    volumes[:, 4:6, 4:6, 7] = 2
    training = Cases(SimpleNamespace(name=f"case_{i}", labels=volume) for i, volume in enumerate(volumes))
    assert WindowBatches(training, settings(), seed=0).fullest() == 7.5 / 16
    empty = Cases([SimpleNamespace(name="empty", labels=np.zeros((8, 8, 9), np.uint8))])
    assert WindowBatches(empty, settings(), seed=0).fullest() == 0.5


@pytest.mark.parametrize("height", [0.01, 0.5, 0.99])
def test_the_first_window_lies_about_the_fullest_height_and_inside_the_volume(height):
    model = Oracle(settings(), volume())
    model.fullest.fill_(height)
    first, known = model.windows(13, seed=0)[0]
    assert first == {0.01: 0, 0.5: 3, 0.99: 7}[height] and not any(known)


def test_guidance_sees_known_slices_noised_and_costs_a_second_evaluation_where_there_are_any():
    truth, counts = volume(), {}
    for guidance in (1, 2):
        model = Oracle(settings(), truth)
        model.sample(truth.shape, 0, MaskSampling(steps=2, guidance=guidance))
        counts[guidance] = len(model.seen)
        for _, codes, known, clean in model.seen:
            given = model.per_channel(known)[0, :, 0, 0] > 0
            assert torch.equal(codes[:, given], clean[:, given])
            assert not torch.isclose(codes[:, ~given], clean[:, ~given], atol=1e-4).all(1).any()
    windows = counts[1] // 2
    assert counts[2] == 2 * (1 + 2 * (windows - 1))  # the first window has no condition to exaggerate


def test_velocity_follows_from_class_probabilities():
    model = MaskSequence(settings(), TABLE.classes)
    slices = torch.from_numpy(np.moveaxis(volume(depth=6), 2, 0))[None]
    clean = model.encode(slices)
    model.output = lambda *_: 30 * clean  # so sure that its probabilities are the code
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    for level in (1000, 500, 50, 1):
        time = torch.tensor([level])
        noisy = model.process.corrupt(clean, noise, time)
        given = model(noisy, model.process.network_time(time), torch.zeros(1, 6), torch.zeros(1, 2))
        assert torch.allclose(given, model.process.target(clean, noise, time), atol=1e-3)


def test_batches_are_windows_of_the_volumes_with_the_modes_asked_for():
    training = cases()
    batches = WindowBatches(training, settings(window=4, known=1, modes=(0.6, 0.2, 0.2)), seed=0)
    modes, starts = [], set()
    for update in range(60):
        batch = batches.batch(update)
        for name, slices, known, position in zip(*(batch[k] for k in ("names", "slices", "known", "position"))):
            labels = training[int(name[-1])].labels
            z = round(float(position[0]) * 13)
            assert float(position[1]) == pytest.approx((z + 4) / 13)
            assert np.array_equal(slices, np.moveaxis(labels[:, :, z : z + 4], 2, 0))
            modes.append("".join("?k"[int(k)] for k in known))
            starts.add(z)
    assert starts == set(range(10))
    shares = {mode: modes.count(mode) / len(modes) for mode in set(modes)}
    assert shares == pytest.approx({"k???": 0.6, "???k": 0.2, "????": 0.2}, abs=0.1)


def test_a_batch_depends_on_its_update_alone_and_ranks_share_it_out():
    batches = WindowBatches(cases(), settings(), seed=0)
    assert torch.equal(batches.batch(5)["slices"], batches.batch(5)["slices"])
    assert not torch.equal(batches.batch(5)["slices"], batches.batch(6)["slices"])
    names = batches.batch(0, rank=0, world_size=2)["names"] + batches.batch(0, rank=1, world_size=2)["names"]
    assert {name: names.count(name) for name in names} == pytest.approx(dict.fromkeys(names, 8 / 3), abs=1)


def test_stretched_volumes_hold_every_slice_twice_and_widen_what_can_be_asked_for(tmp_path):
    doubled = settings(window=4, depth_range=(2.0, 2.0))
    batches = WindowBatches(cases(), doubled, seed=0)
    for update in range(8):
        batch = batches.batch(update)
        for name, slices, position in zip(batch["names"], batch["slices"], batch["position"]):
            z = round(float(position[0]) * 26)
            expected = np.repeat(volume(phase=int(name[-1])), 2, axis=2)[:, :, z : z + 4]
            assert np.array_equal(slices, np.moveaxis(expected, 2, 0))
    model = fit_mask_sequence(cases(), settings(updates=1, depth_range=(0.5, 2.0)), RunFolder(tmp_path))
    assert model.fitted_on.tolist() == [8, 8, 6, 26]
    assert model.sample((8, 8, 7), 0, MaskSampling(steps=1)).shape == (8, 8, 7)


def test_masks_drawn_small_come_out_at_the_size_of_the_training_volumes(tmp_path):
    training = Cases([SimpleNamespace(name="case_0", labels=np.full((16, 24, 8), 2, np.uint8))])
    model = fit_mask_sequence(training, settings(updates=1, slice_size=(8, 8)), RunFolder(tmp_path))
    drawn = model.sample((16, 24, 8), 0, MaskSampling(steps=1))
    assert drawn.shape == (16, 24, 8) and drawn.dtype == np.uint8 and drawn.max() < TABLE.classes


class Kill(Silent):
    def __init__(self, after):
        self.after = after

    def advance(self, steps=1, **numbers):
        self.after -= 1
        if self.after == 0:
            raise KeyboardInterrupt


def ball(index, side=16):
    random = np.random.default_rng(index)
    distance = np.linalg.norm(np.indices((side,) * 3) - random.uniform(6.5, 8.5, (3, 1, 1, 1)), axis=0)
    radius = random.uniform(5, 7)
    return np.where(distance < radius / 2, 2, np.where(distance < radius, 1, 0)).astype(np.uint8)


def test_fitted_on_balls_it_draws_balls_without_jumps_or_seams_and_with_seams_if_it_is_not_told_what_went_before(
    tmp_path, monkeypatch
):
    training = Cases(SimpleNamespace(name=f"case_{i}", labels=ball(i)) for i in range(12))
    loop = LoopSettings(updates=80, batch_size=12, learning_rate=5e-3, decay="cosine", precision="32-true", ema=0.8)
    model = fit_mask_sequence(training, settings(channels=(16, 16), head_channels=16, loop=loop), RunFolder(tmp_path))
    real = [ball(i) for i in range(100, 130)]
    drawn = [model.sample((16, 16, 16), i, MaskSampling(steps=4)) for i in range(4)]
    assert jump(drawn, real) < 1.25
    plan = model.windows(16, 0)
    assert seam(drawn, [plan] * 4, real) < 1.3
    share = np.mean([(volume > 0).mean() for volume in drawn]) / np.mean([(volume > 0).mean() for volume in real])
    assert 0.5 < share < 2
    alone = [(z, [False] * 6) for z, _ in plan]
    monkeypatch.setattr(model, "windows", lambda *_: alone)
    torn = [model.sample((16, 16, 16), i, MaskSampling(steps=4)) for i in range(4)]
    assert seam(torn, [alone] * 4, real) > 3


def test_interrupted_equals_uninterrupted_and_saved_weights_draw_the_same(tmp_path):
    small = settings(prediction="v")  # hardly fitted, it draws something else with every seed
    whole = fit_mask_sequence(cases(), small, RunFolder(tmp_path / "whole", seed=2))
    with pytest.raises(KeyboardInterrupt):
        fit_mask_sequence(cases(), small, RunFolder(tmp_path / "cut", seed=2, progress=Kill(2)))
    cut = fit_mask_sequence(cases(), small, RunFolder(tmp_path / "cut", seed=2))
    save_weights(tmp_path / "weights.safetensors", cut)
    loaded = MaskSequence(small, TABLE.classes)
    load_weights(tmp_path / "weights.safetensors", loaded)
    drawn = [m.sample((8, 8, 13), 4, MaskSampling(steps=2)) for m in (whole, cut, loaded.eval())]
    assert np.array_equal(drawn[0], drawn[1]) and np.array_equal(drawn[0], drawn[2])
    assert not np.array_equal(drawn[0], whole.sample((8, 8, 13), 5, MaskSampling(steps=2)))


def test_what_it_was_not_fitted_for_is_refused_with_the_reason():
    with pytest.raises(InputError, match="not fitted"):
        MaskSequence(settings(), TABLE.classes).sample((8, 8, 13), 0)
    model = Oracle(settings(), volume())
    with pytest.raises(InputError, match=r"volumes of 13 slices, got a depth of 14.*depth_range"):
        model.sample((8, 8, 14), 0)
    with pytest.raises(InputError, match="slices of 8 x 8 voxels, got 8 x 12"):
        model.sample((8, 12, 13), 0)


def test_training_cases_that_cannot_serve_are_refused_with_the_reason():
    unlabelled = Cases([SimpleNamespace(name="bare", labels=None)])
    for training, changes, text in (
        (unlabelled, {}, "no training case has labels"),
        (cases(depth=5), {}, "has 5 slices, a window needs 6"),
        (cases(depth=8), {"depth_range": (0.5, 1.0)}, "has 4 slices, a window needs 6"),
        (cases(size=(8, 7)), {}, "multiples of 2"),
        (Cases(cases(1) + cases(1, size=(8, 10))), {}, "slices of different sizes"),
    ):
        with pytest.raises(InputError, match=text):
            WindowBatches(training, settings(**changes), seed=0)
    mixed = WindowBatches(Cases(unlabelled + cases()), settings(), seed=0)  # cases without labels are left out
    assert mixed.names == ["case_0", "case_1", "case_2"]


def test_a_diverged_network_is_refused():
    model = Oracle(settings(), volume())
    model.forward = lambda codes, *_: torch.full_like(codes, torch.nan)
    with pytest.raises(RunError, match="diverged"):
        model.sample((8, 8, 13), 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"known": 6},
        {"modes": (0.5, 0.5, 0.0)},
        {"modes": (0.4, 0.4, 0.4)},
        {"depth_range": (2.0, 1.0)},
        {"channels": (8,)},
    ],
)
def test_settings_that_mean_nothing_are_refused(changes):
    with pytest.raises(ValidationError):
        settings(**changes)

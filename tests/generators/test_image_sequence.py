"""The image sequence: the blend, who sees what, what each loss is zero for, and that a fit learns and resumes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from voxpair.cohorts.cohort import CohortWriter
from voxpair.cohorts.datasets import PreparedCohort
from voxpair.cohorts.preprocess import Preprocessor, PreprocessSettings
from voxpair.core.case import Case
from voxpair.core.errors import InputError
from voxpair.core.labels import LabelTable
from voxpair.core.run import RunFolder, Silent, read_log
from voxpair.generators.medgen3d import perceptual
from voxpair.generators.medgen3d.critics import adversarial_loss, clips, critic_loss, feature_matching_loss
from voxpair.generators.medgen3d.flow import optical_flow
from voxpair.generators.medgen3d.image_sequence import (
    ClipBatches,
    ImageSequenceSettings,
    fit_image_sequence,
    make_image_sequence,
    too_small,
)
from voxpair.generators.medgen3d.painting import LABEL_SHARE, PaintingTask
from voxpair.generators.medgen3d.perceptual import perceptual_loss, vgg_features
from voxpair.generators.medgen3d.slice_painter import OUTSIDE, SlicePainter, Stroke, one_hot
from voxpair.training.loop import LoopSettings
from voxpair.training.state import load_weights, save_weights

TABLE = LabelTable.from_mapping("balls", {"background": 0, "shell": 2, "core": 5})
GRID = (16, 14, 9)
LOOP = LoopSettings(updates=3, batch_size=2, ema=0.5, clip=None, precision="32-true", checkpoint_every_s=0)
SMALL = {
    "scales": 1,
    "width": 4,
    "halvings": 1,
    "blocks": 2,
    "critic_width": 4,
    "critic_layers": 1,
    "critic_levels": 1,
    "clip": 3,
    "temporal_scales": 1,
    "coarse_fraction": 0.5,
    "loop": LOOP,
}


def settings(**changes):
    return ImageSequenceSettings(**(SMALL | changes))


def a_case(index, has_labels=True):
    """A core in a shell, brighter than the background, drifting along X from slice to slice."""
    random = np.random.default_rng(index)
    x, y, z = np.indices(GRID)
    distance = np.hypot(x - 5 - 0.5 * z, y - 7)
    labels = np.where(distance < 2.5, 5, np.where(distance < 4 + index % 2, 2, 0)).astype(np.uint8)
    image = (100.0 * labels + random.normal(0, 10, GRID)).astype(np.float32)
    return Case(f"case_{index}", image, labels if has_labels else None, np.eye(4), TABLE, patient=f"p{index}")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("image_sequence")
    writer = CohortWriter(folder / "cohort", TABLE, "MRI")
    for index in range(4):
        writer.add(a_case(index, has_labels=index != 1))
    preprocessor = Preprocessor(PreprocessSettings(grid=GRID, fit="crop_or_pad"), TABLE, "MRI")
    return PreparedCohort.build(writer.finish(), preprocessor, folder / "cache")


def labelled_only(prepared):
    keep = [0, 2, 3]
    files, facts = (tuple(part[i] for i in keep) for part in (prepared.files, prepared.facts))
    return PreparedCohort(files, facts, prepared.label_table)


def a_batch(prepared, chosen, update=0):
    batches = ClipBatches(labelled_only(prepared), chosen.past, chosen.clip, 2, seed=0)
    return {**batches.batch(update), "update": update}


def a_task(chosen):
    torch.manual_seed(0)
    return PaintingTask(make_image_sequence(chosen, 3).painter, chosen, 3)


# The blend


def stroke_of(painter, known, weight_bias, flow_bias=(0.0, 0.0)):
    with torch.no_grad():
        painter.weight_head.weight.zero_()
        painter.weight_head.bias.fill_(weight_bias)
        painter.flow_head.bias.copy_(torch.tensor(flow_bias))
    random = torch.Generator().manual_seed(0)
    past = torch.rand(1, 2, 9, 10, generator=random)
    labels = torch.rand(1, 9, 9, 10, generator=random)
    return painter(labels, past, torch.tensor([known])), past


def a_painter(**changes):
    torch.manual_seed(0)
    return SlicePainter(settings(flow_gain=2.0, **changes), classes=3)


def test_a_weight_of_nought_keeps_the_slice_before_where_the_flow_puts_it():
    stroke, past = stroke_of(a_painter(), (1.0, 1.0), -60.0, flow_bias=(0.5, -1.0))  # a gain of 2: 1 and -2 voxels
    assert torch.allclose(stroke.image[0, 0, :-1, 2:], past[0, 1, 1:, :-2], atol=1e-5)
    assert stroke.new_weight.max() < 1e-6


def test_a_weight_of_one_half_is_the_mean_of_old_and_new():
    stroke, past = stroke_of(a_painter(), (1.0, 1.0), 0.0)
    assert torch.allclose(stroke.image, (past[:, 1:] + stroke.texture) / 2, atol=1e-6)


def test_without_a_slice_before_all_is_new():
    stroke, _ = stroke_of(a_painter(), (1.0, 0.0), -60.0)
    assert torch.equal(stroke.image, stroke.texture) and (stroke.new_weight == 1).all()
    assert stroke.image.min() >= 0 and stroke.image.max() <= 1


def test_slices_painted_side_by_side_do_not_see_each_other():
    painter, random = a_painter(scales=2), torch.Generator().manual_seed(0)
    labels, past = torch.rand(3, 9, 12, 8, generator=random), torch.rand(3, 2, 12, 8, generator=random)
    known = torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    together = painter(labels, past, known).image
    for i in range(3):
        alone = painter(labels[i : i + 1], past[i : i + 1], known[i : i + 1]).image
        assert torch.allclose(together[i : i + 1], alone, atol=1e-5)


def test_the_shortcut_lets_edges_through():
    """A pattern of single voxels is learnt from the labels at full resolution, not through the halvings."""
    classes = torch.from_numpy(np.random.default_rng(0).integers(0, 3, (1, 3, 12, 12)))
    labels, past, known = one_hot(classes, 3).flatten(1, 2), torch.zeros(1, 2, 12, 12), torch.zeros(1, 2)
    errors = []
    for shortcut in (True, False):
        painter = a_painter(shortcut=shortcut, halvings=2)
        optimizer = torch.optim.Adam(painter.parameters(), 3e-3)
        for _ in range(30):
            error = (painter(labels, past, known).texture - classes[:, 2:] / 2).abs().mean()
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
        errors.append(error.item())
    assert errors[0] < 0.6 * errors[1]


def test_one_hot_is_empty_outside_the_volume():
    codes = one_hot(torch.tensor([OUTSIDE, 0, 2]).reshape(1, 3, 1, 1), 3)
    assert codes.shape == (1, 3, 3, 1, 1)
    assert codes[0, :, :, 0, 0].tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 1]]


# The critics and their losses


def judgement(verdict, feature=0.0):
    return [[torch.full((1, 2, 4, 4), feature), torch.full((1, 1, 3, 3), verdict)] for _ in range(2)]


def test_verdicts_are_least_squares_in_closed_form():
    assert critic_loss(judgement(1.0), judgement(0.0)) == 0
    assert critic_loss(judgement(0.5), judgement(0.5)) == pytest.approx(0.25)
    assert adversarial_loss(judgement(1.0)) == 0 and adversarial_loss(judgement(-1.0)) == pytest.approx(4)


def test_features_are_compared_and_verdicts_are_not():
    assert feature_matching_loss(judgement(1.0, 0.3), judgement(0.0, 0.3)) == 0
    assert feature_matching_loss(judgement(1.0, 0.3), judgement(1.0, 0.8)) == pytest.approx(0.5)


def test_a_video_critic_sees_three_slices_a_stride_apart_with_the_flows_between_them():
    images = torch.arange(9.0).reshape(1, 9, 1, 1)
    flows = torch.arange(6.0).reshape(1, 6, 1, 1, 1) * torch.tensor([1.0, 100.0]).reshape(1, 1, 2, 1, 1)
    seen = clips(images, flows, 3)[:, :, 0, 0]
    assert seen.shape == (3, 7)
    assert ((seen[:, :3] + 1) / 2).tolist() == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
    assert seen[1, 3:].tolist() == [1, 100, 4, 400]


def test_every_loss_of_the_painter_is_zero_for_the_real_slices_and_flows(prepared, monkeypatch):
    chosen = settings()
    task, batch = a_task(chosen), a_batch(prepared, chosen)
    clip = task.real_clip(batch, 0)
    real = clip.images[:, chosen.past :].unsqueeze(2)
    perfect = Stroke(real, real, clip.flows[1], torch.zeros_like(real))
    monkeypatch.setattr(task, "paint", lambda *_: (perfect, torch.ones(real.shape[:2])))
    losses = task(batch, "model")
    assert losses["flow"] == losses["pixel"] == losses["features"] == 0
    assert losses["warp"] < 0.05
    still = Stroke(real, real, torch.zeros_like(clip.flows[1]), torch.zeros_like(real))
    monkeypatch.setattr(task, "paint", lambda *_: (still, torch.ones(real.shape[:2])))
    worse = task(batch, "model")
    assert worse["flow"] > 0.05 and worse["warp"] > losses["warp"]


def test_video_critics_are_given_the_flow_between_the_slices_that_they_see(prepared, monkeypatch):
    chosen = settings(clip=7, temporal_scales=2)
    task = a_task(chosen)
    clip = task.real_clip(a_batch(prepared, chosen), 0)
    strokes, _ = task.paint(clip, 0)
    seen = {}

    def record(images, flows, stride):
        seen.setdefault(stride, []).append((images, flows))
        return judgement(0.0)

    monkeypatch.setattr(task.critics, "judge_clips", record)
    task._judgements(clip, strokes)
    labels = LABEL_SHARE * clip.labels[:, chosen.past :]
    for stride, ((real, flows), (painted, same_flows)) in seen.items():
        assert torch.equal(real, clip.images[:, chosen.past :]) and torch.equal(painted, strokes.image[:, :, 0])
        assert flows is same_flows and flows.shape[1] == real.shape[1] - stride
        slices = torch.cat([real.unsqueeze(2), labels], 2)
        for t in range(flows.shape[1]):  # from slice t + stride back to slice t
            assert torch.allclose(flows[:, t], optical_flow(slices[:, t + stride], slices[:, t]), atol=1e-5)
    assert set(seen) == {1, 3}


def test_where_the_reference_flow_explains_nothing_the_painter_need_not_follow_it(prepared):
    chosen = settings()
    task = a_task(chosen)
    clip = task.real_clip(a_batch(prepared, chosen), 0)
    clip.images[:, chosen.past :, :8] = (
        1 - torch.arange(3).reshape(1, 3, 1, 1) % 2
    )  # half of each slice is new every time
    strokes, followed = task.paint(clip, 0)
    followed = torch.ones_like(followed)
    wrong = clip.flows[1].clone()
    wrong[..., :4, :] += 5  # well inside that half, whose edge is smoothed
    losses = {}
    for name, flow in (("right", clip.flows[1]), ("wrong where nothing is known", wrong), ("wrong", clip.flows[1] + 5)):
        losses[name] = float(task._moved(clip, replace(strokes, flow=flow), followed)["flow"])
    assert losses["right"] == losses["wrong where nothing is known"] == 0 and losses["wrong"] > 1


def test_a_slice_that_follows_noise_has_no_flow_to_learn(prepared):
    chosen = settings(from_noise=1.0)
    task = a_task(chosen)
    clip = task.real_clip(a_batch(prepared, chosen), 0)
    strokes, followed = task.paint(clip, 0)
    assert followed.tolist() == [[0, 1, 1]] * 2
    assert (strokes.new_weight[:, 0] == 1).all() and (strokes.new_weight[:, 1:] < 1).all()
    nothing = task._moved(clip, strokes, torch.zeros_like(followed))
    assert nothing == {"flow": 0, "warp": 0}


def test_painter_and_critics_are_two_players_and_move_apart(prepared):
    chosen = settings(scales=2, coarse_fraction=0.0)
    task, batch = a_task(chosen), a_batch(prepared, chosen)
    players = task.players()
    assert not {id(p) for p in players["model"]} & {id(p) for p in players["critic"]}
    assert sum(map(len, players.values())) == len(list(task.parameters()))
    task(batch, "critic")["loss"].backward()
    assert all(p.grad is None for p in players["model"]) and all(p.grad is not None for p in players["critic"])
    losses = task(batch, "model")
    assert set(losses) == {"loss", "adversarial", "video", "features", "flow", "warp", "pixel"}
    weighed = losses["adversarial"] + losses["video"] + losses["pixel"] * chosen.pixel_weight
    weighed = weighed + 10 * (losses["features"] + losses["flow"] + losses["warp"])
    assert losses["loss"].item() == pytest.approx(weighed.item(), rel=1e-5)


def test_coarse_to_fine(prepared):
    chosen = settings(scales=2)
    task = a_task(chosen)
    coarse, fine = task.painter.coarse, task.painter.texture_head
    task(a_batch(prepared, chosen, update=0), "model")["loss"].backward()
    assert coarse.texture_head.weight.grad is not None and fine.weight.grad is None
    task.zero_grad()
    task(a_batch(prepared, chosen, update=2), "model")["loss"].backward()
    assert fine.weight.grad is not None and coarse.texture_head.weight.grad is None
    assert next(coarse.parameters()).grad.abs().sum() > 0  # its features are used, its heads are not


# Clips


def test_clips_depend_on_the_update_alone_and_hold_slices_that_belong_together(prepared):
    chosen = settings()
    batches = ClipBatches(labelled_only(prepared), 2, 3, 2, seed=0)
    for update in (5, 0, 5):
        batch = batches.batch(update)
        again = ClipBatches(labelled_only(prepared), 2, 3, 2, seed=0).batch(update)
        assert all(torch.equal(batch[key], again[key]) for key in ("image", "labels"))
    outside = [a_batch(prepared, chosen, update)["labels"] == OUTSIDE for update in range(12)]
    below = torch.stack([o[:, :, 0, 0] for o in outside])
    assert below[:, :, :2].any() and not below[:, :, 2:].any()
    halves = ClipBatches(labelled_only(prepared), 2, 3, 1, seed=0)
    two = [halves.batch(4, rank, 2) for rank in (0, 1)]
    assert torch.equal(torch.cat([h["image"] for h in two]), batches.batch(4)["image"])


def test_unlabelled_cases_are_left_out_and_a_cohort_of_them_is_refused(prepared, tmp_path):
    seen = {name for update in range(6) for name in a_batch(prepared, settings(), update)["names"]}
    assert seen == {"case_0", "case_2", "case_3"}
    none = PreparedCohort(prepared.files[1:2], prepared.facts[1:2], TABLE)
    with pytest.raises(InputError, match="labels"):
        fit_image_sequence(none, settings(), RunFolder(tmp_path))


# Fit and paint


class Kill(Silent):
    """Breaks a fit off after its second update."""

    def __init__(self):
        self.updates = 0

    def advance(self, steps=1, **numbers):
        self.updates += 1
        if self.updates == 2:
            raise KeyboardInterrupt


def test_interrupted_is_uninterrupted_and_weights_come_back(prepared, tmp_path):
    chosen = settings(scales=2)
    whole = fit_image_sequence(prepared, chosen, RunFolder(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        fit_image_sequence(prepared, chosen, RunFolder(tmp_path / "cut", progress=Kill()))
    resumed = fit_image_sequence(prepared, chosen, RunFolder(tmp_path / "cut"))
    log = read_log(tmp_path / "cut" / "metrics.jsonl")
    assert [record["update"] for record in log] == [1, 2, 3]
    assert {"loss", "critic_loss", "adversarial", "video", "flow", "warp"} <= set(log[0])
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    save_weights(tmp_path / "weights.safetensors", whole)
    loaded = make_image_sequence(chosen, TABLE.classes)
    load_weights(tmp_path / "weights.safetensors", loaded)
    assert np.array_equal(loaded.paint(prepared[0].labels, 0), whole.paint(prepared[0].labels, 0))


def test_painting_depends_on_labels_seed_and_the_slices_below_alone(prepared):
    torch.manual_seed(0)
    network = make_image_sequence(settings(scales=2), 3)
    classes = np.array(prepared[0].labels)
    volume = network.paint(classes, seed=1)
    assert volume.shape == GRID and volume.dtype == np.float32 and volume.min() >= 0 and volume.max() <= 1
    torch.manual_seed(5)
    assert np.array_equal(network.paint(classes, seed=1), volume)
    assert np.array_equal(network.paint(classes[:, :, :4], seed=1), volume[:, :, :4])
    assert not np.array_equal(network.paint(classes, seed=2)[:, :, 0], volume[:, :, 0])
    changed = classes.copy()
    changed[:, :, 5] = 0
    other = network.paint(changed, seed=1)
    assert np.array_equal(other[:, :, :5], volume[:, :, :5]) and not np.array_equal(other[:, :, 5:], volume[:, :, 5:])


def test_a_short_fit_learns_how_bright_each_class_is(prepared, tmp_path):
    loop = LOOP.model_copy(update={"updates": 30, "learning_rate": 3e-3, "checkpoint_every_s": 1e9})
    network = fit_image_sequence(prepared, settings(loop=loop, width=8, flow_gain=1.0), RunFolder(tmp_path))
    image, classes = np.array(prepared[3].image), np.array(prepared[3].labels)
    painted = network.paint(classes, seed=0)
    real, made = ([float(volume[classes == k].mean()) for k in range(3)] for volume in (image, painted))
    assert made[0] < made[1] < made[2]
    assert np.abs(np.subtract(real, made)).max() < 0.2


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (np.full((12, 12, 4), 3, np.uint8), "0 to 2"),
        (np.full((12, 12, 4), -1, np.int16), "-1"),
        (np.zeros((12, 12, 4), np.float32), "float32"),
        (np.zeros((12, 12), np.uint8), r"\(12, 12\)"),
        (np.zeros((12, 12, 0), np.uint8), r"\(12, 12, 0\)"),
    ],
)
def test_label_maps_that_it_was_not_fitted_for_are_refused(classes, message):
    with pytest.raises(InputError, match=message):
        make_image_sequence(settings(), 3).paint(classes, 0)


def test_one_slice_and_empty_labels_are_painted():
    painted = make_image_sequence(settings(scales=2), 3).paint(np.zeros((5, 7, 1), np.uint8), 0)
    assert painted.shape == (5, 7, 1) and np.isfinite(painted).all()


def test_settings_and_volumes_that_cannot_work_are_refused():
    with pytest.raises(ValidationError, match="needs clips of 7"):
        settings(temporal_scales=2)
    with pytest.raises(ValidationError, match="from_noise"):
        settings(from_noise=0.0)
    assert "2 axial slices" in too_small((64, 64, 2), settings())
    chosen = settings(scales=2, critic_layers=2)
    assert "need 24 a side" in too_small((23, 64, 9), chosen)
    assert not too_small((24, 24, 9), chosen)


def test_the_smallest_side_is_the_smallest_that_critics_can_judge():
    chosen = settings(critic_layers=2, critic_levels=2)
    for side, works in ((chosen.smallest_side, True), (chosen.smallest_side - 8, False)):
        images, labels = torch.rand(1, 3, side, side), torch.rand(1, 3, 3, side, side)
        if works:
            assert len(a_task(chosen).critics.judge_slices(images, labels)) == 2
        else:
            with pytest.raises((RuntimeError, ValueError)):
                a_task(chosen).critics.judge_slices(images, labels)


# The perceptual loss


def test_the_perceptual_loss_reads_the_users_weights_only(prepared, tmp_path, monkeypatch):
    narrow = tuple(4 if isinstance(width, int) else width for width in perceptual.LAYOUT)
    monkeypatch.setattr(perceptual, "LAYOUT", narrow)
    torch.manual_seed(0)
    state = {f"features.{name}": value for name, value in vgg_features().state_dict().items()}
    file = tmp_path / "vgg19.safetensors"
    save_file({**state, "classifier.0.weight": torch.zeros(2)}, file)
    loss = perceptual_loss(file)
    images = torch.rand(2, 1, 24, 24)
    assert loss(images, images) == 0 and loss(images, 1 - images) > 0
    torch.save(state, tmp_path / "vgg19.pth")
    assert perceptual_loss(tmp_path / "vgg19.pth")(images, 1 - images) == loss(images, 1 - images)
    chosen = settings(perceptual_file=file)
    task = a_task(chosen)
    assert not any("features" in name for name in task.state_dict())
    wide = {**a_batch(prepared, chosen)}
    wide = {key: value.repeat(1, 1, 4, 4) if hasattr(value, "repeat") else value for key, value in wide.items()}
    assert task(wide, "model")["perceptual"] > 0


def test_a_file_without_vgg_is_refused(tmp_path):
    save_file({"features.0.weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="no VGG-19"):
        perceptual_loss(tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="no weights file"):
        perceptual_loss(tmp_path / "missing.pth")

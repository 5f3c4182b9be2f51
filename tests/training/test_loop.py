"""The loop keeps its promises: resume is exact, trouble stops it, the average and the best weights come back."""

import json

import pytest
import torch
from torch import nn

from voxpair.core.errors import InputError, RunError
from voxpair.core.run import RunFolder, Silent, read_log
from voxpair.training.loop import LoopSettings, Task, fit
from voxpair.training.state import load_checkpoint, load_weights, save_weights


class Line(Task):
    """y = a x + b with dropout, so that the update's seed matters; ``validate`` follows a script."""

    def __init__(self, scores=()):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.scores, self.validations = list(scores), 0

    def forward(self, batch, player):
        return {"loss": (self.net(batch["x"]) - batch["y"]).square().mean()}

    def validate(self):
        return {"score": self.scores.pop(0)} if self.scores else {}


class Duel(Task):
    """Two players with parameters of their own: each may only move its own."""

    def __init__(self):
        super().__init__()
        self.model, self.critic = nn.Linear(4, 1), nn.Linear(4, 1)

    def players(self):
        return {"model": list(self.model.parameters()), "critic": list(self.critic.parameters())}

    def forward(self, batch, player):
        if player == "model":
            return {"loss": self.model(batch["x"]).square().mean()}
        return {"loss": (self.critic(batch["x"]) - 1).square().mean() + 0 * self.model(batch["x"]).sum()}


class Points:
    """Batches of the line y = sum(x), a function of the update alone."""

    def __init__(self, poison=None):
        self.poison = poison

    def batch(self, update, rank=0, world_size=1):
        x = torch.randn(6, 4, generator=torch.Generator().manual_seed(update))
        if update == self.poison:
            x[0, 0] = torch.nan
        return {"x": x, "y": x.sum(1, keepdim=True), "names": [f"case_{update}_{i}" for i in range(6)]}


class Kill(Silent):
    """Stops the process (as far as the loop can tell) after some updates."""

    def __init__(self, after):
        self.after = after

    def advance(self, steps=1, **numbers):
        self.after -= 1
        if self.after == 0:
            raise KeyboardInterrupt


SETTINGS = LoopSettings(updates=12, ema=0.9, decay="cosine", warmup=2, checkpoint_every_s=0, precision="32-true")


@pytest.mark.parametrize("make", [Line, Duel])
@pytest.mark.parametrize("workers", [0, 1])
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path, make, workers):
    settings = SETTINGS.model_copy(update={"workers": workers})
    torch.manual_seed(1)
    whole = make()
    fit(whole, Points(), settings, RunFolder(tmp_path / "whole", seed=3))

    for after in (5, 4):  # killed twice, each time in a fresh process's objects
        torch.manual_seed(1)
        with pytest.raises(KeyboardInterrupt):
            fit(make(), Points(), settings, RunFolder(tmp_path / "cut", seed=3, progress=Kill(after)))
    torch.manual_seed(1)
    resumed = make()
    fit(resumed, Points(), settings, RunFolder(tmp_path / "cut", seed=3))

    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    logs = [read_log(tmp_path / name / "metrics.jsonl") for name in ("whole", "cut")]
    for log in logs:
        for record in log:
            del record["seconds"]
    assert logs[0] == logs[1] and [r["update"] for r in logs[0]] == list(range(1, 13))


def test_another_seed_gives_other_dropout(tmp_path):
    results = []
    for seed in (0, 1):
        task = Line()
        fit(task, Points(), SETTINGS, RunFolder(tmp_path / str(seed), seed=seed))
        results.append(task.net[0].weight.detach().clone())
    assert not torch.equal(*results)


def test_a_finished_fit_is_not_done_again(tmp_path):
    run = RunFolder(tmp_path)
    first, again = Line(), Line()
    fit(first, Points(), SETTINGS, run)
    fit(again, Points(poison=0), SETTINGS, run)  # would stop at once if it trained
    assert torch.equal(first.net[0].weight, again.net[0].weight)


def test_accumulation_changes_nothing_but_rounding(tmp_path):
    weights = []
    for accumulate in (1, 3):
        task = Line()
        task.net[1].p = 0.0
        settings = SETTINGS.model_copy(update={"accumulate": accumulate, "updates": 1, "clip": None, "ema": None})
        fit(task, Points(), settings, RunFolder(tmp_path / str(accumulate)))
        weights.append(task.net[0].weight.detach())
    torch.testing.assert_close(*weights)


def test_nonfinite_loss_stops_before_the_weights_move_and_names_the_cases(tmp_path):
    task = Line()
    before = task.net[0].weight.detach().clone()
    with pytest.raises(RunError, match=r"update 0 .*not finite.*case_0_0"):
        fit(task, Points(poison=0), SETTINGS, RunFolder(tmp_path))
    assert torch.equal(task.net[0].weight, before)
    assert "case_0_3" in json.loads((tmp_path / "nonfinite.json").read_text())["cases"]


def test_early_stopping_returns_the_best_weights(tmp_path):
    settings = LoopSettings(updates=40, validate_every=2, patience=3, precision="32-true", checkpoint_every_s=0)
    task = Line(scores=[0.1, 0.5, 0.2, 0.3, 0.4, 0.9])
    result = fit(task, Points(), settings, RunFolder(tmp_path / "long"))
    assert (result.updates, result.stopped_early, result.best, result.best_update) == (10, True, 0.5, 4)
    short = Line()
    fit(short, Points(), LoopSettings(updates=4, precision="32-true"), RunFolder(tmp_path / "short"))
    assert torch.equal(task.net[0].weight, short.net[0].weight)


def test_players_move_only_their_own_parameters(tmp_path):
    task = Duel()
    settings = LoopSettings(updates=300, learning_rate=0.05, weight_decay=0, precision="32-true")
    fit(task, Points(), settings, RunFolder(tmp_path))
    assert float(task.model.bias.detach().abs()) < 0.05  # the model learnt 0 although the critic's loss touches it
    assert float((task.critic.bias.detach() - 1).abs()) < 0.05


def test_average_is_the_exponential_average(tmp_path):
    task, decay = Line(), 0.9
    fit(task, Points(), SETTINGS, RunFolder(tmp_path))
    state = load_checkpoint(tmp_path, "checkpoint")
    raw = {key: value.double() for key, value in state["task"].items()}
    assert not torch.equal(raw["net.0.weight"].float(), task.net[0].weight)
    by_hand, trace = None, []
    follow = Line()
    for updates in range(1, 13):  # the raw weights after each update, then the average by its definition
        fresh = Line()
        settings = SETTINGS.model_copy(update={"updates": 12, "ema": None})
        with pytest.raises(KeyboardInterrupt):
            fit(fresh, Points(), settings, RunFolder(tmp_path / f"{updates}", progress=Kill(updates)))
        trace.append(fresh.net[0].weight.detach().double())
    by_hand = follow.net[0].weight.detach().double()
    for n, weight in enumerate(trace, 1):
        kept = min(decay, (1 + n) / (10 + n))
        by_hand = kept * by_hand + (1 - kept) * weight
    torch.testing.assert_close(by_hand.float(), task.net[0].weight.detach())


def test_a_damaged_checkpoint_is_refused_by_name(tmp_path):
    fit(Line(), Points(), SETTINGS, RunFolder(tmp_path))
    (tensors,) = tmp_path.glob("checkpoint-*.safetensors")
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        fit(Line(), Points(), SETTINGS, RunFolder(tmp_path))


def test_only_one_checkpoint_is_kept_and_a_kill_between_its_files_keeps_the_old_one(tmp_path):
    fit(Line(), Points(), SETTINGS, RunFolder(tmp_path))
    assert len(list(tmp_path.glob("checkpoint-*.safetensors"))) == 1
    (tmp_path / "checkpoint-ffffffff-99.safetensors").write_bytes(b"written, but its JSON was not")
    assert load_checkpoint(tmp_path, "checkpoint")["update"] == 12


def test_weights_of_another_network_are_refused(tmp_path):
    save_weights(tmp_path / "w.safetensors", nn.Linear(3, 2))
    with pytest.raises(InputError, match="does not fit this network"):
        load_weights(tmp_path / "w.safetensors", nn.Linear(4, 2))
    with pytest.raises(InputError, match="no weights file"):
        load_weights(tmp_path / "absent.safetensors", nn.Linear(4, 2))

"""The parts of the joint latent diffusion model: what goes in, what comes out, what each loss sees."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from voxpair.core.errors import InputError, RunError
from voxpair.diffusion.process import DiscreteDiffusion, RectifiedFlow
from voxpair.generators.joint_ldm.autoencoder import AutoencoderSettings, JointAutoencoder, norm_groups
from voxpair.generators.joint_ldm.cleanup import remove_specks
from voxpair.generators.joint_ldm.denoiser import Denoiser, DenoiserTask, DiffusionSettings
from voxpair.generators.joint_ldm.generator import JointLDMSettings, SamplingSettings
from voxpair.generators.joint_ldm.label_codes import make_label_code
from voxpair.generators.joint_ldm.latents import Latents, Normalisation
from voxpair.generators.joint_ldm.reconstruction import AutoencoderTask, check_gate, spectral_loss

SMALL = AutoencoderSettings(channels=(8, 16), stem_channels=4, latent_channels=3, label_drop=0.0, coarse_weight=1.0)


def a_batch(labelled=(True, True)):
    random = torch.Generator().manual_seed(0)
    return {
        "image": torch.rand(2, 1, 8, 12, 8, generator=random),
        "labels": torch.randint(0, 3, (2, 1, 8, 12, 8), generator=random),
        "has_labels": torch.tensor(labelled),
        "names": ["a", "b"],
        "update": 0,
    }


def network(settings=SMALL):
    torch.manual_seed(0)
    return JointAutoencoder(settings, make_label_code(settings.label_code, 3))


@pytest.mark.parametrize("fusion", ["add", "concat"])
@pytest.mark.parametrize("label_code", ["one_hot", "rgb"])
def test_shapes_of_every_variant(fusion, label_code):
    settings = SMALL.model_copy(update={"fusion": fusion, "label_code": label_code, "stem_channels": 3})
    model, batch = network(settings), a_batch()
    mean, log_variance = model.encode(batch["image"], batch["labels"][:, 0], batch["has_labels"])
    assert mean.shape == log_variance.shape == (2, 3, 4, 6, 4)
    image, output = model.decode(mean)
    assert image.shape == batch["image"].shape and output.shape == (2, 3, 8, 12, 8)


def test_the_papers_stems_add_volumes_of_three_channels():
    model = network(SMALL.model_copy(update={"stem_channels": 3, "label_code": "rgb"}))
    assert model.image_stem.weight.shape[:2] == (3, 1) and model.label_stem.weight.shape[:2] == (3, 3)
    assert model.body.encoder.blocks[0].conv.in_channels == 3


def test_labels_of_unlabelled_cases_are_neither_read_nor_learnt_from():
    model, batch = network(), a_batch(labelled=(True, False))
    other = batch["labels"].clone()
    other[1] = (other[1] + 1) % 3
    a, b = (model.encode(batch["image"], labels[:, 0], batch["has_labels"])[0] for labels in (batch["labels"], other))
    assert torch.equal(a, b)
    task = AutoencoderTask(model, SMALL)
    losses = []
    for labels in (batch["labels"], other):
        torch.manual_seed(1)
        losses.append(task({**batch, "labels": labels}, "model")["label"])
    assert torch.equal(*losses)
    all_labelled = {**batch, "has_labels": torch.tensor([True, True])}
    assert not torch.equal(model.encode(batch["image"], other[:, 0], all_labelled["has_labels"])[0], a)


def test_a_batch_without_any_labels_still_reaches_every_parameter():
    task = AutoencoderTask(network(), SMALL)
    losses = task(a_batch(labelled=(False, False)), "model")
    losses["loss"].backward()
    assert losses["label"] == 0 and all(p.grad is not None for p in task.network.parameters())


def test_the_label_loss_sees_hidden_labels():
    hiding = SMALL.model_copy(update={"label_drop": 0.999})
    task = AutoencoderTask(network(), hiding)
    losses = task(a_batch(), "model")
    losses["loss"].backward()
    assert losses["label"] > 0 and not task.network.label_stem.weight.grad.any()


def test_kl_is_zero_for_the_standard_normal_only():
    task = AutoencoderTask(network(), SMALL)
    body = task.network.body
    with torch.no_grad():
        for layer in (body.quant_conv_mu.conv, body.quant_conv_log_sigma.conv):
            layer.weight.zero_()
            layer.bias.zero_()
        assert task(a_batch(), "model")["kl"].item() == pytest.approx(0, abs=1e-6)
        body.quant_conv_mu.conv.bias.fill_(2.0)
        assert task(a_batch(), "model")["kl"].item() == pytest.approx(2.0)


class Averages(torch.nn.Module):
    """An ideal autoencoder of volumes made of blocks: the latent holds their means, or hides the image's in ripples."""

    def __init__(self, ripples=False):
        super().__init__()
        self.code, self.ripples = make_label_code("one_hot", 3), ripples

    def encode(self, image, classes, labelled):
        mean = torch.nn.functional.avg_pool3d(torch.cat([image, self.code.encode(classes)], 1), 2)
        mean = self._rippled(mean)
        return mean, torch.full_like(mean, -60.0)

    def decode(self, latent):
        volume = torch.nn.functional.interpolate(self._rippled(latent), scale_factor=2.0)
        return volume[:, :1], 40 * volume[:, 1:]

    def _rippled(self, latent):
        """Turn the sign of the image's channel in every second voxel; twice is once too often."""
        signs = sum(torch.meshgrid(*[torch.arange(n) for n in latent.shape[2:]], indexing="ij")) % 2 * 2 - 1
        return torch.cat([latent[:, :1] * signs, latent[:, 1:]], 1) if self.ripples else latent


def test_the_coarse_loss_wants_coarse_latents_to_speak_for_coarse_volumes():
    batch = a_batch()
    blocks = {key: batch[key][..., :2, :2, :2] for key in ("image", "labels")}
    for axis in (2, 3, 4):
        blocks = {key: block.repeat_interleave(8, axis) for key, block in blocks.items()}
    means, ripples = (AutoencoderTask(Averages(r), SMALL)({**batch, **blocks}, "model") for r in (False, True))
    assert means["image"].item() == pytest.approx(0, abs=1e-6) == ripples["image"].item()
    assert means["coarse"].item() == pytest.approx(0, abs=1e-5)
    averaged_away = 2 * blocks["image"].mean()  # at both sizes the mean of ripples is 0
    assert ripples["coarse"].item() == pytest.approx(averaged_away.item(), abs=1e-5)
    assert means["loss"] < ripples["loss"]


def test_latents_that_cannot_be_halved_have_no_coarse_loss_and_weight_zero_computes_none():
    batch = {key: value[:, :, :6, :6, :6] if key in ("image", "labels") else value for key, value in a_batch().items()}
    assert AutoencoderTask(network(), SMALL)(batch, "model")["coarse"] == 0
    off = SMALL.model_copy(update={"coarse_weight": 0.0})
    assert "coarse" not in AutoencoderTask(network(off), off)(batch, "model")


def test_the_critic_and_the_model_move_apart():
    settings = SMALL.model_copy(update={"adversarial_weight": 0.1})
    task = AutoencoderTask(network(settings), settings)
    batch = a_batch()
    batch["image"], batch["labels"] = (torch.cat([batch[k]] * 2, 2).repeat(1, 1, 1, 1, 2) for k in ("image", "labels"))
    players = task.players()
    assert not {id(p) for p in players["model"]} & {id(p) for p in players["critic"]}
    task(batch, "critic")["loss"].backward()
    assert all(p.grad is None for p in players["model"]) and any(p.grad is not None for p in players["critic"])
    assert "adversarial" in task(batch, "model")
    assert list(AutoencoderTask(network(), SMALL).players()) == ["model"]


def test_spectral_loss_wants_texture_of_the_right_strength_not_the_right_grains():
    random = torch.Generator().manual_seed(0)
    image, other = (0.5 + 0.1 * torch.randn(1, 1, 32, 32, 32, generator=random) for _ in range(2))
    smooth = torch.full_like(image, 0.5)
    strong = 0.5 + 3 * (other - 0.5)
    losses = {}
    for name, made in {"same": image, "other": other, "smooth": smooth, "strong": strong}.items():
        torch.manual_seed(0)
        losses[name] = float(spectral_loss(made, image))
    assert losses["same"] == 0 < losses["other"] < 0.7 * losses["smooth"] < losses["strong"]
    assert (other - image).abs().mean() > (smooth - image).abs().mean()  # the mean absolute error says the opposite


def test_spectral_loss_takes_volumes_smaller_than_its_window_and_flat_ones():
    made = torch.full((1, 1, 5, 20, 8), 0.5, requires_grad=True)
    spectral_loss(made, torch.rand(1, 1, 5, 20, 8)).backward()
    assert torch.isfinite(made.grad).all()


def test_the_gate_names_the_structure_its_dice_and_the_way_out():
    check_gate({"LV": 0.71, "LAA": None}, AutoencoderSettings())
    with pytest.raises(
        RunError, match=r"keep LAA: .*0\.402, the gate is 0\.7 \(also PA 0\.650\).*latent_channels, now 4"
    ):
        check_gate({"LV": 0.9, "PA": 0.65, "LAA": 0.402}, AutoencoderSettings())


def test_normalisation_gives_unit_latents_per_channel_and_leaves_dead_channels_alone(tmp_path):
    latents = Latents(tmp_path, ("a", "b"), 2)
    random = np.random.default_rng(0)
    scale, shift = np.array([2.0, 0.1, 0.0]), np.array([1.0, -5.0, 3.0])
    for name in latents.names:
        values = random.normal(size=(2, 3, 4, 5, 6)) * scale[:, None, None, None] + shift[:, None, None, None]
        np.save(latents.latent_file(name), values.astype(np.float32))
        np.save(latents.vector_file(name), np.zeros((2, 0), np.float32))
    normalisation = latents.normalisation()
    everything = torch.stack([normalisation.forward(latents.read(i, c)[0][None])[0] for i in (0, 1) for c in (0, 1)])
    assert everything.mean((0, 2, 3, 4)).abs().max() < 1e-3
    torch.testing.assert_close(everything.std((0, 2, 3, 4)), torch.tensor([1.0, 1.0, 0.0]), atol=2e-3, rtol=0)
    back = normalisation.inverse(normalisation.forward(everything))
    torch.testing.assert_close(back, everything)
    assert isinstance(normalisation, Normalisation)


SMALL_UNET = DiffusionSettings(channels=(8, 16), attention=(False, True), head_channels=8)


@pytest.mark.parametrize("length", [0, 5])
def test_the_denoiser_hears_the_condition_and_the_time(length):
    torch.manual_seed(0)
    denoiser = Denoiser(SMALL_UNET, (3, 4, 4, 4), length)
    for parameter in denoiser.parameters():  # MONAI starts each residual block, and the output, at 0
        torch.nn.init.normal_(parameter, std=0.2)
    latent, null = torch.randn(2, 3, 4, 4, 4), torch.zeros(2, length)
    base = denoiser(latent, torch.tensor([0.01, 0.01]), null)
    assert base.shape == latent.shape
    assert not torch.equal(base, denoiser(latent, torch.tensor([0.01, 0.9]), null))
    if length:
        assert not torch.equal(base, denoiser(latent, torch.tensor([0.01, 0.01]), null + 1))


@pytest.mark.parametrize("loss", ["l1", "l2"])
def test_denoiser_loss_is_that_of_the_target(loss):
    settings = SMALL_UNET.model_copy(update={"loss": loss, "trust": None, "start": 1.0})
    task = DenoiserTask(Denoiser(settings, (3, 4, 4, 4), 2), settings, lambda vectors: vectors)
    batch = {"latent": torch.ones(2, 3, 4, 4, 4), "condition": torch.zeros(2, 2), "augmentation": torch.zeros(2, 0)}
    torch.manual_seed(0)
    found = task(batch, "model")["loss"]
    torch.manual_seed(0)
    task.process.draw_times(2)
    target = torch.randn(2, 3, 4, 4, 4) - 1  # an untrained U-Net gives 0
    torch.testing.assert_close(found, target.abs().mean() if loss == "l1" else target.square().mean())


def test_validation_of_the_denoiser_repeats_exactly():
    held_out = {"latent": torch.randn(3, 3, 4, 4, 4), "condition": torch.zeros(3, 0), "augmentation": torch.zeros(3, 0)}
    task = DenoiserTask(Denoiser(SMALL_UNET, (3, 4, 4, 4), 0), SMALL_UNET, lambda v: v, held_out)
    with torch.inference_mode():
        first = task.validate()
        torch.rand(1)
        assert task.validate() == first
    assert first["score"] == -first["validation_loss"] < 0


def test_processes_follow_the_settings():
    flow = DiffusionSettings(shift_scale=2.0).process((64, 64, 64))
    assert isinstance(flow, RectifiedFlow) and flow.shift == 4 and flow.start == 0.95
    assert DiffusionSettings(formulation="v", levels=100, start=0.9).process((4, 4, 4)).levels == 90
    zero = DiffusionSettings(formulation="v", levels=100, zero_terminal_snr=True, start=1.0).process((4, 4, 4))
    assert isinstance(zero, DiscreteDiffusion) and zero.levels == 100 and zero.alpha_bars[-1] == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DiffusionSettings(formulation="epsilon", zero_terminal_snr=True), "cannot have zero terminal SNR"),
        (lambda: DiffusionSettings(attention=(False,)), "same levels"),
        (lambda: DiffusionSettings(trust=None), "set trust, or start to 1"),
        (lambda: DiffusionSettings(channels=(8, 12), attention=(False, False)), "multiples of 16"),
        (lambda: AutoencoderSettings(patch=(31, 32, 32)), "divisible by the down-sampling 2"),
        (lambda: AutoencoderSettings(channels=()), "width of each level"),
        (lambda: JointLDMSettings(preprocess={"grid": (40, 50, 40)}), r"multiple of 8 .*\(40, 48, 40\) would do"),
    ],
)
def test_settings_that_cannot_work_are_refused(make, message):
    with pytest.raises(ValidationError, match=message):
        make()


def test_a_sampler_that_does_not_fit_the_process_is_refused():
    with pytest.raises(InputError, match="it has euler, heun"):
        JointLDMSettings(sampling=SamplingSettings(sampler="ddim"))
    assert JointLDMSettings().sampler == "wiener"
    assert JointLDMSettings(diffusion=DiffusionSettings(trust=None, start=1.0)).sampler == "euler"
    assert JointLDMSettings(diffusion=DiffusionSettings(formulation="v", trust=None, start=1.0)).sampler == "dpm_solver"


@pytest.mark.parametrize("channels", [(7,), (8, 12), (80, 160), (64, 128, 256, 512)])
def test_norm_groups_divide_every_width(channels):
    assert all(c % norm_groups(channels) == 0 for c in channels) and norm_groups(channels) <= 32


def test_specks_go_to_their_neighbours_and_the_largest_part_stays():
    classes = np.zeros((9, 9, 9), np.uint8)
    classes[1:6, 1:6, 1:6] = 1
    classes[3, 3, 3] = 2  # a speck of 2 inside 1, where 2 has a larger part elsewhere
    classes[7:9, 7:9, 7:9] = 2
    classes[8, 0, 0] = 1  # a speck of 1 in the background
    cleaned = remove_specks(classes, 3)
    assert cleaned[3, 3, 3] == 1 and cleaned[8, 0, 0] == 0 and (cleaned[7:9, 7:9, 7:9] == 2).all()
    assert (cleaned != classes).sum() == 2
    assert remove_specks(classes, 1) is classes
    lonely = np.zeros((4, 4, 4), np.uint8)
    lonely[0, 0, 0] = 1
    assert np.array_equal(remove_specks(lonely, 100), lonely)

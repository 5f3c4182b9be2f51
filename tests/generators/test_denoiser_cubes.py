"""Cubes of latent voxels and the clean output are changes of coordinates: the process sees the same velocity."""

import pytest
import torch
from einops import rearrange
from pydantic import ValidationError
from torch import nn

from voxpair.diffusion.process import RectifiedFlow
from voxpair.generators.joint_ldm.denoiser import Denoiser, DiffusionSettings

SMALL = {"channels": (8, 8), "attention": (False, False), "head_channels": 8}


class Answer(nn.Module):
    """A U-Net that knows the answer, in cubes of 2 x 2 x 2."""

    def __init__(self, latent):
        super().__init__()
        self.cubes = rearrange(latent, "b c (x i) (y j) (z k) -> b (c i j k) x y z", i=2, j=2, k=2)

    def forward(self, noisy, time, class_labels=None):
        assert noisy.shape == self.cubes.shape
        return self.cubes


@pytest.mark.parametrize("output", ["velocity", "clean"])
def test_the_right_answer_gives_the_right_velocity(output):
    random = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(3, 4, 8, 12, 8, generator=random) for _ in range(2))
    time = torch.tensor([0.1, 0.5, 1.0])
    process = RectifiedFlow()
    target = process.target(clean, noise, time)
    network = Denoiser(DiffusionSettings(patch=2, output=output, **SMALL), 4, 0)
    network.unet = Answer(clean if output == "clean" else target)
    made = network(process.corrupt(clean, noise, time), process.network_time(time), torch.zeros(3, 0))
    torch.testing.assert_close(made, target, rtol=1e-4, atol=1e-4)


def test_near_time_zero_the_velocity_stays_finite():
    network = Denoiser(DiffusionSettings(output="clean", **SMALL), 4, 0)
    made = network(torch.randn(1, 4, 4, 4, 4), torch.zeros(1), torch.zeros(1, 0))
    assert torch.isfinite(made).all()


def test_a_latent_must_fit_into_cubes_and_levels():
    assert DiffusionSettings(patch=2, **SMALL).downsampling == 4


def test_the_clean_output_belongs_to_the_flow():
    with pytest.raises(ValidationError, match="is for formulation"):
        DiffusionSettings(formulation="v", output="clean", **SMALL)

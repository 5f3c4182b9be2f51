"""Where the time of one update goes, per stage: shares of processor time by kind of operation; writes profile.json.

    python benchmarks/speed/profile_updates.py

Hippocampus preset, random data, three updates of each network after one to warm up. Shares of one run on one machine,
not seconds.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path

import torch
from monai.losses import DiceCELoss
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from voxpair.core.labels import HIPPOCAMPUS
from voxpair.core.run import versions, write_json
from voxpair.generators.joint_ldm.denoiser import Denoiser
from voxpair.generators.joint_ldm.reconstruction import AutoencoderTask, make_autoencoder
from voxpair.networks.backbones import build
from voxpair.presets import plan
from voxpair.training.precision import computes_bfloat16

KINDS = {
    "convolution, backward": ("convolution_backward",),
    "convolution, forward": ("mkldnn_convolution", "slow_conv3d", "thnn_conv"),
    "normalisation": ("group_norm", "batch_norm", "instance_norm"),
    "copies and casts": ("copy_", "cat", "contiguous"),
    "Fourier transform": ("fft",),
    "attention and linear": ("mm", "attention", "softmax"),
}


def main() -> None:
    torch.manual_seed(0)
    updates = {"autoencoder": autoencoder(), "denoiser": denoiser(), "segmenter": segmenter()}
    result = {
        "command": "python benchmarks/speed/profile_updates.py",
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "threads": torch.get_num_threads()},
        "precision": "bf16-mixed" if computes_bfloat16("cpu") else "32-true",
        "versions": versions(),
        "share_of_time": {name: shares(update) for name, update in updates.items()},
    }
    write_json(Path(__file__).with_name("profile.json"), result)
    print(result["share_of_time"])


def autoencoder() -> Callable[[], Tensor]:
    settings = plan("hippocampus").generator
    task = AutoencoderTask(make_autoencoder(settings.autoencoder, HIPPOCAMPUS), settings.autoencoder)
    size = (settings.autoencoder.loop.batch_size, 1, *settings.preprocess.grid)
    batch = {
        "image": torch.rand(size),
        "labels": torch.randint(0, 3, size),
        "has_labels": torch.ones(size[0], dtype=torch.bool),
    }
    return lambda: task(batch, "model")["loss"]


def denoiser() -> Callable[[], Tensor]:
    settings = plan("hippocampus").generator
    network = Denoiser(settings.diffusion, settings.latent_shape, 8)
    latent = torch.randn(settings.diffusion.loop.batch_size, *settings.latent_shape)
    times, condition = torch.rand(len(latent)), torch.zeros(len(latent), 8)
    return lambda: network(latent, times, condition).square().mean()


def segmenter() -> Callable[[], Tensor]:
    settings = plan("hippocampus").segmentation
    network = build(settings.backbone, 1, 3, settings.window)
    size = (settings.loop.batch_size, 1, *settings.window)
    image, labels = torch.rand(size), torch.randint(0, 3, size)
    loss = DiceCELoss(to_onehot_y=True, softmax=True)
    return lambda: loss(network(image).float(), labels)


def shares(update: Callable[[], Tensor]) -> dict[str, float]:
    """Return the share of each kind of operation in the processor's own time, largest first."""

    def once() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=computes_bfloat16("cpu")):
            loss = update()
        loss.backward()

    once()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(3):
            once()
    own = {event.key: event.self_cpu_time_total for event in found.key_averages()}
    total = sum(own.values())
    kinds = dict.fromkeys(KINDS, 0.0) | {"everything else": 0.0}
    for name, time in own.items():
        kind = next((kind for kind, words in KINDS.items() if any(w in name for w in words)), "everything else")
        kinds[kind] += time / total
    return {kind: round(share, 3) for kind, share in sorted(kinds.items(), key=lambda item: -item[1])}


if __name__ == "__main__":
    main()

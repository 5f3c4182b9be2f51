"""Latents -> a diffusion model; the finished autoencoder is not fitted again."""

from _folder import HERE

import voxpair

settings = voxpair.plan("unit").generator
print(voxpair.fit(HERE / "cohort", HERE / "generator", settings, voxpair.Session()))

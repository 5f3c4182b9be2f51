"""Training cases -> an autoencoder that holds image and labels in one latent."""

from _folder import HERE

import voxpair

settings = voxpair.plan("unit").generator
voxpair.fit(HERE / "cohort", HERE / "generator", settings, voxpair.Session(), steps=["autoencoder"])
print((HERE / "generator/autoencoder/reconstruction.json").read_text())

"""Images, real and synthetic -> an encoder, by masked image modelling."""

from _folder import HERE

import voxpair

settings = voxpair.plan("unit").pretraining
print(voxpair.pretrain([HERE / "synthetic", HERE / "cohort"], HERE / "pretraining", settings, voxpair.Session()))

"""A generator -> new pairs; case i depends on the weights, the seed and i alone."""

from _folder import HERE

import voxpair

synthetic = voxpair.sample(HERE / "generator", HERE / "synthetic", 4, voxpair.Session(seed=1))
for case in synthetic:
    print(case.name, f"{case.image.min():.0f} to {case.image.max():.0f} HU", sorted(set(case.labels.flat)))

"""Everything above for three protocols in one call -> one offline HTML page."""

from _folder import HERE

import voxpair

print(voxpair.demo(HERE / "demo", voxpair.plan("unit"), voxpair.Session()))

"""Real and synthetic pairs, from the pretrained encoder -> a segmenter -> predictions, a cohort again."""

from _folder import HERE

import voxpair

session, settings = voxpair.Session(), voxpair.plan("unit").segmentation
cohorts = [HERE / "cohort", HERE / "synthetic"]
voxpair.segment_fit(cohorts, HERE / "segmenter", settings, session, encoder=HERE / "pretraining")
predictions = voxpair.segment_predict(HERE / "segmenter", HERE / "cohort", HERE / "predictions", session, split="test")
print(predictions.names)

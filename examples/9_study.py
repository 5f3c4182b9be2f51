"""Three ways of making a segmenter on the same patients, from 2 and from 4 labels -> one table with intervals."""

from _folder import HERE

import voxpair

report = voxpair.run_study(
    HERE / "demo/cohort",
    HERE / "study",
    voxpair.plan("unit"),
    voxpair.Session(),
    arms=["baseline_equal_updates", "self_training", "ours_real_last"],
    seeds=1,
    sweep=voxpair.Sweep(labelled=[2, 4]),
)
print((HERE / "study/study.md").read_text())
print(report)

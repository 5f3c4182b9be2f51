"""Scans -> a cohort: one folder, checked and split by patient."""

from _folder import HERE

import voxpair

session, plan = voxpair.Session(seed=0), voxpair.plan("unit")

# Scans of your own: voxpair.import_scans(voxpair.Scans("my-scans"), HERE / "cohort", session)
voxpair.make_phantoms(HERE / "cohort", plan.cases.phantom, plan.phantom, session)
for finding in voxpair.check(HERE / "cohort", session):
    print(finding.severity, finding.case, finding.what)
print(voxpair.split(HERE / "cohort", (6, 2, 2), session))

for case in voxpair.Cohort.open(HERE / "cohort").split("test"):
    print(case.name, case.image.shape, case.spacing_mm, case.attributes["contrast"])

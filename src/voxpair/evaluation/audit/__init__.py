"""Whom does a synthetic cohort copy?

similarity      how alike two scans are once one is laid over the other
embedding       a vector per scan: near for two views of one patient, learnt without labels
copy_detector   a scan -> its nearest training case by both, and whether that is nearer than strangers come
disguises       planted copies, which the audit must find to count
memorisation    two or three cohorts -> audit.json, copies.npz
"""

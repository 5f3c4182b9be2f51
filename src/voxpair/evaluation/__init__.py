"""Numbers about masks and about synthetic cohorts, one folder a question.

    masks       do predicted masks agree with reference masks?
    pairs       what are synthetic pairs worth beside real ones?
    selection   which synthetic pairs are good enough to learn from?
    audit       whom does a synthetic cohort copy?

    anatomy     what a label map is like and what it must obey; for pairs and selection
    statistics  how sure a mean or a difference is; for masks and pairs

The four that answer a question do not see each other.
"""

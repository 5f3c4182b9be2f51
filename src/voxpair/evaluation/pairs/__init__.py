"""What are synthetic pairs worth? Every number stands beside the same number of real cases.

    evaluate                     two cohorts -> pairs.json, pairs.csv, curves.json, from all that follows
    measures                     a number and its real-against-real floor, from equally large samples

    question                     file           with the help of
    do images look real?         fidelity       distances (of two sets of vectors), perceptual (networks of others)
    do cases differ enough?      diversity      lpips (the same by a network)
    is the texture real?         texture        noise, edges
    are labels possible anatomy? plausibility   the folder anatomy
    do labels fit the image?     alignment      edges

Each question has two functions: ``describe`` keeps little of a case, ``compare`` makes measures of two lists of that.
"""

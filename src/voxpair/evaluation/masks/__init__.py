"""Do predicted masks agree with reference masks, and those of one protocol better than those of another?

agreement    predictions and references -> masks.csv, masks.json
comparison   masks.csv of several protocols -> comparison.json
"""

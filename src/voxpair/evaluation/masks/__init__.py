"""Do predicted masks agree with reference masks, and those of one protocol better than those of another?

evaluate     predictions and references -> masks.csv (rows of ``agreement``), masks.json (means of ``summary``)
comparison   masks.csv of several protocols and seeds -> comparison.json
"""

NSD_TOLERANCE_MM = 1.0
"""How far a surface may lie off the other and still count as met, where nobody says otherwise."""

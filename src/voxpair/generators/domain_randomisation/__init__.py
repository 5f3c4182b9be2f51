"""Domain randomisation (Billot et al. 2023): label maps of patients, deformed and painted anew.

Data flow, which is also the order of the files:

    label_maps   annotated cases -> maps to paint, and how bright their classes are
    generator    a map, deformed and painted at random -> a synthetic pair; fit, sample, save, load
"""

"""From masks to numbers: agreement per case and structure, and what the numbers are worth.

``agreement`` compares predicted with reference masks, ``comparison`` one protocol with another; ``statistics`` says how
sure a mean or a difference is.
"""

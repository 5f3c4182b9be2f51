"""The words everyone uses: Case, LabelTable, Settings, RunFolder, errors, contracts.

Needs the standard library, NumPy, pydantic and PyYAML; never torch.
"""

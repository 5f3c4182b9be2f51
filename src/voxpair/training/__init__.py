"""How anything here is fitted: one loop, one checkpoint format."""

"""Networks that a segmenter and its pre-training share, behind one set of settings."""

"""Self-supervised pre-training: images in, encoder weights out."""

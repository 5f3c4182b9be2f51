"""Segmentation: real and synthetic pairs in, masks out."""

"""Networks that a segmenter and its pre-training share, behind one set of settings."""

NETWORKS: dict[str, str] = {
    "unet3d": "U-Net in 3D (MONAI's DynUNet); the default",
    "unet2d": "the same in 2D, slice by slice",
    "unetr": "UNETR: a vision transformer with a convolutional decoder",
    "swin_unetr": "Swin UNETR: windowed attention with a convolutional decoder",
}
"""Name to description; listing them does not import torch."""

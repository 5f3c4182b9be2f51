"""MedGen3D (Han et al. 2023): labels first, slice by slice, then an image that follows them.

Data flow, which is also the order of the files:

    windows           label volumes -> windows of slices; the order in which they fill a new volume
    seams             label volumes -> jumps between slices, and seams where windows meet
    mask_sequence     noise -> label volume (MC-DPM)
    flow, critics     how slices move into one another; judges of slices and clips
    image_sequence    label volume -> painted image, one slice after the other (Vid2Vid)
    refiner           painted image and labels -> texture, in three views (semantic diffusion)
    generator         puts these together: fit, sample, save, load
    baselines         what the paper compares itself with
"""

"""Joint latent diffusion of image and labels (Ikuta et al. 2024; Hu et al. 2024), as the papers have it and better.

Data flow, which is also the order of the files:

    label_codes     class indices <-> the channels that stand for them
    autoencoder     image + labels <-> latent
    reconstruction  fits the autoencoder, and refuses one that loses a structure
    latents         the training set as normalised latents, on the disk
    conditions      columns of cases.csv and structure volumes <-> a vector
    denoiser        noisy latent, time, condition -> what the diffusion process asks for; its fit
    facts           what of the training set travels with the weights
    cleanup         optional removal of specks from generated labels
    generator       puts these together: fit, sample, save, load
"""

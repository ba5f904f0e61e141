"""Changing a picture: attributes as directions in latent space, and the latents of a given picture."""

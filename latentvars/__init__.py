"""Latent-variable models on Pyro: fit, posterior, embedding."""

__version__ = "0.1.0"

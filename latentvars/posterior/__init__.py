"""Readouts of values: beliefs over locals, labelled results, summaries. No fitting."""

from latentvars.posterior.latent import LatentPosterior

__all__ = ["LatentPosterior"]

"""Families of models: density, starting values, axes and checks of each in a file of its own."""

from latentvars.models import emissions
from latentvars.models.factor_analysis import FactorAnalysis
from latentvars.models.gaussian_mixture import GaussianMixture
from latentvars.models.hidden_markov import HiddenMarkov
from latentvars.models.mixture import Mixture
from latentvars.models.vae import VAE

__all__ = ["VAE", "FactorAnalysis", "GaussianMixture", "HiddenMarkov", "Mixture", "emissions"]

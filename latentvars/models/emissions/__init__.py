"""Emissions: the law of one observation in each component of a mixture or state of a chain."""

from latentvars.models.emissions.base import Emission
from latentvars.models.emissions.discrete import Bernoulli, Categorical, Poisson
from latentvars.models.emissions.gaussian import (
    DiagonalGaussian,
    FullGaussian,
    Gaussian,
    GaussianEmission,
    SphericalGaussian,
    TiedGaussian,
)
from latentvars.models.emissions.product import Product
from latentvars.models.emissions.regression import Regression

__all__ = [
    "Bernoulli",
    "Categorical",
    "DiagonalGaussian",
    "Emission",
    "FullGaussian",
    "Gaussian",
    "GaussianEmission",
    "Poisson",
    "Product",
    "Regression",
    "SphericalGaussian",
    "TiedGaussian",
]

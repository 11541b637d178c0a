"""latentvars: latent-variable models on Pyro and PyTorch, fitted by one engine, read as beliefs and as embeddings."""

from latentvars import models
from latentvars.distributions import flat
from latentvars.inference import (
    EM,
    SVI,
    AnyOf,
    Custom,
    Delta,
    Fit,
    FullRank,
    LowRank,
    MeanField,
    Never,
    Plateau,
    Status,
    TimeLimit,
    Tolerance,
    fit,
    from_point,
)
from latentvars.models import emissions
from latentvars.posterior import LatentPosterior
from latentvars.rows import Batch, Rows

__version__ = "0.1.0"

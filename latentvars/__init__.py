"""latentvars: latent-variable models on Pyro and PyTorch, fitted by one engine, read as beliefs and as embeddings."""

from latentvars import models
from latentvars.distributions import flat
from latentvars.embedding import Embedding
from latentvars.inference import (
    EM,
    SVI,
    AnyOf,
    Custom,
    Delta,
    Fit,
    Fitter,
    FullRank,
    LowRank,
    MeanField,
    Never,
    OnlineEM,
    Plateau,
    Status,
    TimeLimit,
    Tolerance,
    fit,
    from_point,
)
from latentvars.loading import load
from latentvars.models import emissions
from latentvars.posterior import LatentPosterior
from latentvars.rows import Batch, Rows

__version__ = "0.1.0"

__all__ = [
    "EM",
    "SVI",
    "AnyOf",
    "Batch",
    "Custom",
    "Delta",
    "Embedding",
    "Fit",
    "Fitter",
    "FullRank",
    "LatentPosterior",
    "LowRank",
    "MeanField",
    "Never",
    "OnlineEM",
    "Plateau",
    "Rows",
    "Status",
    "TimeLimit",
    "Tolerance",
    "emissions",
    "fit",
    "flat",
    "from_point",
    "load",
    "models",
]

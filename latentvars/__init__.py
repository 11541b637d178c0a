"""latentvars: latent-variable models on Pyro and PyTorch, fitted by one engine, read as beliefs and as embeddings."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from latentvars import datasets, models
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
    GuideSteps,
    Keep,
    LowRank,
    MeanField,
    MonteCarloEM,
    Never,
    OnlineEM,
    Plateau,
    Refuse,
    Restart,
    Status,
    TimeLimit,
    Tolerance,
    VariationalEM,
    fit,
    from_point,
)
from latentvars.loading import load
from latentvars.models import emissions
from latentvars.posterior import LatentPosterior
from latentvars.posterior.standard_errors import StandardErrors
from latentvars.rows import Batch, Design, Rows
from latentvars.starts import Hierarchical, KMeansPlusPlus, Memberships, PriorDraws, RandomRows
from latentvars.studies import Bootstrap, bootstrap

if TYPE_CHECKING:
    from latentvars import plots

__version__ = "0.1.0"

__all__ = [
    "EM",
    "SVI",
    "AnyOf",
    "Batch",
    "Bootstrap",
    "Custom",
    "Delta",
    "Design",
    "Embedding",
    "Fit",
    "Fitter",
    "FullRank",
    "GuideSteps",
    "Hierarchical",
    "KMeansPlusPlus",
    "Keep",
    "LatentPosterior",
    "LowRank",
    "MeanField",
    "Memberships",
    "MonteCarloEM",
    "Never",
    "OnlineEM",
    "Plateau",
    "PriorDraws",
    "RandomRows",
    "Refuse",
    "Restart",
    "Rows",
    "StandardErrors",
    "Status",
    "TimeLimit",
    "Tolerance",
    "VariationalEM",
    "bootstrap",
    "datasets",
    "emissions",
    "fit",
    "flat",
    "from_point",
    "load",
    "models",
    "plots",
]


def __getattr__(name: str) -> Any:
    """``lv.plots`` is imported when it is first used: matplotlib is slow to import."""
    if name == "plots":
        return import_module("latentvars.plots")
    raise AttributeError(f"module 'latentvars' has no attribute {name!r}")

"""latentvars: latent-variable models on Pyro and PyTorch, fitted by one engine, read as beliefs and as embeddings."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from latentvars import models
from latentvars.distributions import flat, ordered, stick_breaking
from latentvars.inference import (
    EM,
    NUTS,
    SVI,
    Alignment,
    Amortised,
    AnyOf,
    Capture,
    Checkpoint,
    Custom,
    Delta,
    Distributed,
    Fit,
    Fitter,
    Flow,
    FullRank,
    GuideSteps,
    Keep,
    Laplace,
    LowRank,
    MeanField,
    MonteCarloEM,
    Never,
    OnlineEM,
    Pathfinder,
    Plateau,
    Refuse,
    Restart,
    Status,
    TimeLimit,
    Tolerance,
    VariationalEM,
    align,
    fit,
    from_point,
)
from latentvars.loading import load
from latentvars.models import emissions
from latentvars.posterior import LatentPosterior
from latentvars.posterior.contrast import contrast
from latentvars.posterior.contrast_result import Contrast
from latentvars.posterior.loo import compare, loo
from latentvars.posterior.occupation import Occupied, occupied
from latentvars.posterior.standard_errors import StandardErrors
from latentvars.posterior.table import table
from latentvars.rows import Batch, Design, Parquet, Rows
from latentvars.starts import Hierarchical, KMeansPlusPlus, Memberships, PriorDraws, RandomRows

if TYPE_CHECKING:
    from latentvars import datasets, plots
    from latentvars.embedding import (
        HNSW,
        IVF,
        BeliefIndex,
        Embedding,
        Evaluation,
        Exact,
        FlatFaiss,
        Index,
        Neighbours,
        Outliers,
        Propagated,
        PropagatedPredictions,
        Provenance,
        Recommendations,
        RetrievalScores,
        TextEmbedding,
        UncertainNeighbours,
        Vectors,
        evaluate_embedding,
        load_index,
        load_vectors,
        outliers,
        propagate,
        recommend,
        retrieval_scores,
        vectors_of,
    )
    from latentvars.embedding.alignment import (
        Concordance,
        Drift,
        VectorAlignment,
        align_vectors,
        concordance,
        drift,
        vector_alignment,
    )
    from latentvars.latent_space import (
        Aggregate,
        Anomaly,
        Decoded,
        Direction,
        Inversion,
        LatentPath,
        LatentSpace,
    )
    from latentvars.posterior.criticism.pit import pit
    from latentvars.posterior.criticism.predictive_check import predictive_check
    from latentvars.posterior.criticism.pseudo_residuals import pseudo_residuals
    from latentvars.posterior.criticism.waic import waic
    from latentvars.posterior.identifiability import identifiability
    from latentvars.studies import Bootstrap, LikelihoodRatio, Sweep, bootstrap, likelihood_ratio, sweep
    from latentvars.studies.bivariate_residuals import bivariate_residuals
    from latentvars.studies.calibration import calibrate
    from latentvars.studies.calibration_result import Calibration
    from latentvars.studies.guide_check import against_nuts, check_guide
    from latentvars.studies.leave_future_out import leave_future_out

# imported when they are first used, as what they stand on (scikit-learn, matplotlib, joblib) is slow to import
LATER = {
    "datasets": ("latentvars.datasets", ""),
    "plots": ("latentvars.plots", ""),
    "Embedding": ("latentvars.embedding", "Embedding"),
    "Exact": ("latentvars.embedding", "Exact"),
    "FlatFaiss": ("latentvars.embedding", "FlatFaiss"),
    "HNSW": ("latentvars.embedding", "HNSW"),
    "IVF": ("latentvars.embedding", "IVF"),
    "Index": ("latentvars.embedding", "Index"),
    "Neighbours": ("latentvars.embedding", "Neighbours"),
    "load_index": ("latentvars.embedding", "load_index"),
    "BeliefIndex": ("latentvars.embedding", "BeliefIndex"),
    "UncertainNeighbours": ("latentvars.embedding", "UncertainNeighbours"),
    "Provenance": ("latentvars.embedding", "Provenance"),
    "Vectors": ("latentvars.embedding", "Vectors"),
    "TextEmbedding": ("latentvars.embedding", "TextEmbedding"),
    "load_vectors": ("latentvars.embedding", "load_vectors"),
    "vectors_of": ("latentvars.embedding", "vectors_of"),
    "Aggregate": ("latentvars.latent_space", "Aggregate"),
    "Anomaly": ("latentvars.latent_space", "Anomaly"),
    "Decoded": ("latentvars.latent_space", "Decoded"),
    "Direction": ("latentvars.latent_space", "Direction"),
    "Inversion": ("latentvars.latent_space", "Inversion"),
    "LatentPath": ("latentvars.latent_space", "LatentPath"),
    "LatentSpace": ("latentvars.latent_space", "LatentSpace"),
    "Bootstrap": ("latentvars.studies", "Bootstrap"),
    "bootstrap": ("latentvars.studies", "bootstrap"),
    "pit": ("latentvars.posterior.criticism.pit", "pit"),
    "predictive_check": ("latentvars.posterior.criticism.predictive_check", "predictive_check"),
    "pseudo_residuals": ("latentvars.posterior.criticism.pseudo_residuals", "pseudo_residuals"),
    "waic": ("latentvars.posterior.criticism.waic", "waic"),
    "Calibration": ("latentvars.studies.calibration_result", "Calibration"),
    "against_nuts": ("latentvars.studies.guide_check", "against_nuts"),
    "calibrate": ("latentvars.studies.calibration", "calibrate"),
    "check_guide": ("latentvars.studies.guide_check", "check_guide"),
    "identifiability": ("latentvars.posterior.identifiability", "identifiability"),
    "bivariate_residuals": ("latentvars.studies.bivariate_residuals", "bivariate_residuals"),
    "leave_future_out": ("latentvars.studies.leave_future_out", "leave_future_out"),
    "LikelihoodRatio": ("latentvars.studies", "LikelihoodRatio"),
    "Sweep": ("latentvars.studies", "Sweep"),
    "likelihood_ratio": ("latentvars.studies", "likelihood_ratio"),
    "sweep": ("latentvars.studies", "sweep"),
    "Concordance": ("latentvars.embedding", "Concordance"),
    "Drift": ("latentvars.embedding", "Drift"),
    "VectorAlignment": ("latentvars.embedding", "VectorAlignment"),
    "align_vectors": ("latentvars.embedding", "align_vectors"),
    "concordance": ("latentvars.embedding", "concordance"),
    "drift": ("latentvars.embedding", "drift"),
    "vector_alignment": ("latentvars.embedding", "vector_alignment"),
    "Evaluation": ("latentvars.embedding", "Evaluation"),
    "Outliers": ("latentvars.embedding", "Outliers"),
    "Propagated": ("latentvars.embedding", "Propagated"),
    "PropagatedPredictions": ("latentvars.embedding", "PropagatedPredictions"),
    "Recommendations": ("latentvars.embedding", "Recommendations"),
    "RetrievalScores": ("latentvars.embedding", "RetrievalScores"),
    "evaluate_embedding": ("latentvars.embedding", "evaluate_embedding"),
    "outliers": ("latentvars.embedding", "outliers"),
    "propagate": ("latentvars.embedding", "propagate"),
    "recommend": ("latentvars.embedding", "recommend"),
    "retrieval_scores": ("latentvars.embedding", "retrieval_scores"),
}

__version__ = "0.1.0"

__all__ = [
    "EM",
    "HNSW",
    "IVF",
    "NUTS",
    "SVI",
    "Aggregate",
    "Alignment",
    "Amortised",
    "Anomaly",
    "AnyOf",
    "Batch",
    "BeliefIndex",
    "Bootstrap",
    "Calibration",
    "Capture",
    "Checkpoint",
    "Concordance",
    "Contrast",
    "Custom",
    "Decoded",
    "Delta",
    "Design",
    "Direction",
    "Distributed",
    "Drift",
    "Embedding",
    "Evaluation",
    "Exact",
    "Fit",
    "Fitter",
    "FlatFaiss",
    "Flow",
    "FullRank",
    "GuideSteps",
    "Hierarchical",
    "Index",
    "Inversion",
    "KMeansPlusPlus",
    "Keep",
    "Laplace",
    "LatentPath",
    "LatentPosterior",
    "LatentSpace",
    "LikelihoodRatio",
    "LowRank",
    "MeanField",
    "Memberships",
    "MonteCarloEM",
    "Neighbours",
    "Never",
    "Occupied",
    "OnlineEM",
    "Outliers",
    "Parquet",
    "Pathfinder",
    "Plateau",
    "PriorDraws",
    "Propagated",
    "PropagatedPredictions",
    "Provenance",
    "RandomRows",
    "Recommendations",
    "Refuse",
    "Restart",
    "RetrievalScores",
    "Rows",
    "StandardErrors",
    "Status",
    "Sweep",
    "TextEmbedding",
    "TimeLimit",
    "Tolerance",
    "UncertainNeighbours",
    "VariationalEM",
    "VectorAlignment",
    "Vectors",
    "against_nuts",
    "align",
    "align_vectors",
    "bivariate_residuals",
    "bootstrap",
    "calibrate",
    "check_guide",
    "compare",
    "concordance",
    "contrast",
    "datasets",
    "drift",
    "emissions",
    "evaluate_embedding",
    "fit",
    "flat",
    "from_point",
    "identifiability",
    "leave_future_out",
    "likelihood_ratio",
    "load",
    "load_index",
    "load_vectors",
    "loo",
    "models",
    "occupied",
    "ordered",
    "outliers",
    "pit",
    "plots",
    "predictive_check",
    "propagate",
    "pseudo_residuals",
    "recommend",
    "retrieval_scores",
    "stick_breaking",
    "sweep",
    "table",
    "vector_alignment",
    "vectors_of",
    "waic",
]


def __getattr__(name: str) -> Any:
    """What is imported when it is first used."""
    if name not in LATER:
        raise AttributeError(f"module 'latentvars' has no attribute {name!r}")
    module, attribute = LATER[name]
    found = import_module(module)
    return getattr(found, attribute) if attribute else found


def __dir__() -> list[str]:
    return __all__

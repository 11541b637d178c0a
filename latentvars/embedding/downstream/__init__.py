"""What people do with vectors: evaluate them, recommend, find outliers, carry their uncertainty into a regression."""

from latentvars.embedding.downstream.evaluation import evaluate_embedding
from latentvars.embedding.downstream.evaluation_result import Evaluation
from latentvars.embedding.downstream.measures import Split
from latentvars.embedding.downstream.outliers import Outliers, outliers
from latentvars.embedding.downstream.propagated import Propagated, PropagatedPredictions
from latentvars.embedding.downstream.propagation import propagate
from latentvars.embedding.downstream.recommendation import Recommendations, recommend
from latentvars.embedding.downstream.retrieval import RetrievalScores, retrieval_scores

__all__ = [
    "Evaluation",
    "Outliers",
    "Propagated",
    "PropagatedPredictions",
    "Recommendations",
    "RetrievalScores",
    "Split",
    "evaluate_embedding",
    "outliers",
    "propagate",
    "recommend",
    "retrieval_scores",
]

"""Deterministic vectors: posterior means of a fit, one for each row, the same to the bit whatever stands beside it."""

from latentvars.embedding.adapter import Embedding
from latentvars.embedding.alignment import (
    Concordance,
    Drift,
    VectorAlignment,
    align_vectors,
    concordance,
    drift,
    vector_alignment,
)
from latentvars.embedding.downstream import (
    Evaluation,
    Outliers,
    Propagated,
    PropagatedPredictions,
    Recommendations,
    RetrievalScores,
    evaluate_embedding,
    outliers,
    propagate,
    recommend,
    retrieval_scores,
)
from latentvars.embedding.search import (
    HNSW,
    IVF,
    BeliefIndex,
    Exact,
    FlatFaiss,
    Index,
    Neighbours,
    UncertainNeighbours,
    load_belief_index,
    load_index,
)
from latentvars.embedding.sources import vectors_of
from latentvars.embedding.texts import TextEmbedding
from latentvars.embedding.vectors import Provenance, Vectors, load_vectors

__all__ = [
    "HNSW",
    "IVF",
    "BeliefIndex",
    "Concordance",
    "Drift",
    "Embedding",
    "Evaluation",
    "Exact",
    "FlatFaiss",
    "Index",
    "Neighbours",
    "Outliers",
    "Propagated",
    "PropagatedPredictions",
    "Provenance",
    "Recommendations",
    "RetrievalScores",
    "TextEmbedding",
    "UncertainNeighbours",
    "VectorAlignment",
    "Vectors",
    "align_vectors",
    "concordance",
    "drift",
    "evaluate_embedding",
    "load_belief_index",
    "load_index",
    "load_vectors",
    "outliers",
    "propagate",
    "recommend",
    "retrieval_scores",
    "vector_alignment",
    "vectors_of",
]

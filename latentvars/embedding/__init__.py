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
from latentvars.embedding.vectors import Provenance, Vectors

__all__ = [
    "Concordance",
    "Drift",
    "Embedding",
    "Provenance",
    "VectorAlignment",
    "Vectors",
    "align_vectors",
    "concordance",
    "drift",
    "vector_alignment",
]

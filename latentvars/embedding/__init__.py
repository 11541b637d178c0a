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
from latentvars.embedding.search import HNSW, IVF, Exact, FlatFaiss, Index, Neighbours, load_index
from latentvars.embedding.vectors import Provenance, Vectors

__all__ = [
    "HNSW",
    "IVF",
    "Concordance",
    "Drift",
    "Embedding",
    "Exact",
    "FlatFaiss",
    "Index",
    "Neighbours",
    "Provenance",
    "VectorAlignment",
    "Vectors",
    "align_vectors",
    "concordance",
    "drift",
    "load_index",
    "vector_alignment",
]

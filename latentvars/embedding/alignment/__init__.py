"""Vectors over time: refits in the axes of the old, how far rows moved, how well two embeddings agree."""

from latentvars.embedding.alignment.aligning import VectorAlignment, align_vectors, vector_alignment
from latentvars.embedding.alignment.concordance import Concordance, concordance
from latentvars.embedding.alignment.drift import Drift, drift

__all__ = ["Concordance", "Drift", "VectorAlignment", "align_vectors", "concordance", "drift", "vector_alignment"]

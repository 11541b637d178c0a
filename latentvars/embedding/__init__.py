"""Deterministic vectors: posterior means of a fit, one for each row, the same to the bit whatever stands beside it."""

from latentvars.embedding.adapter import Embedding
from latentvars.embedding.vectors import Provenance, Vectors

__all__ = ["Embedding", "Provenance", "Vectors"]

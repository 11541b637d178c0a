"""Vectors in files: Parquet, safetensors, numpy, word2vec's text, AnnData."""

from latentvars.embedding.export.files import load_vectors, save_vectors
from latentvars.embedding.export.streaming import export

__all__ = ["export", "load_vectors", "save_vectors"]

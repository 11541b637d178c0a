"""Search: the nearest vectors, exactly or by FAISS, and the nearest beliefs with the probability that they are."""

from latentvars.embedding.search.engines import Engine, Exact
from latentvars.embedding.search.faiss_engines import HNSW, IVF, FlatFaiss
from latentvars.embedding.search.index import Index
from latentvars.embedding.search.neighbours import Neighbours
from latentvars.embedding.search.saving import load_index

__all__ = ["HNSW", "IVF", "Engine", "Exact", "FlatFaiss", "Index", "Neighbours", "load_index"]

"""Search: the nearest vectors, exactly or by FAISS, and the nearest beliefs with the probability that they are."""

from latentvars.embedding.search.belief_index import BeliefIndex
from latentvars.embedding.search.engines import Engine, Exact
from latentvars.embedding.search.faiss_engines import HNSW, IVF, FlatFaiss
from latentvars.embedding.search.index import Index
from latentvars.embedding.search.loading import load_belief_index, load_index
from latentvars.embedding.search.nearer import Nearer
from latentvars.embedding.search.neighbours import Neighbours
from latentvars.embedding.search.uncertain import UncertainNeighbours

__all__ = [
    "HNSW",
    "IVF",
    "BeliefIndex",
    "Engine",
    "Exact",
    "FlatFaiss",
    "Index",
    "Nearer",
    "Neighbours",
    "UncertainNeighbours",
    "load_belief_index",
    "load_index",
]

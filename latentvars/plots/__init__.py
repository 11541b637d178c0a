"""Pictures of fits and embeddings: values in, a matplotlib figure out; no global state, no windows."""

from latentvars.plots.components import components
from latentvars.plots.neighbours import neighbours
from latentvars.plots.scatter import scatter
from latentvars.plots.states import states

__all__ = ["components", "neighbours", "scatter", "states"]

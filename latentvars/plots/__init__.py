"""Pictures of fits and embeddings: values in, a matplotlib figure out; no global state, no windows."""

from latentvars.plots.calibration import calibration
from latentvars.plots.components import components
from latentvars.plots.emissions import emissions
from latentvars.plots.evaluation import evaluation
from latentvars.plots.forest import forest
from latentvars.plots.latent import latent
from latentvars.plots.loadings import loadings
from latentvars.plots.neighbours import neighbours
from latentvars.plots.pit import pit
from latentvars.plots.predictive_check import predictive_check
from latentvars.plots.progress import objective, restarts
from latentvars.plots.pseudo_residuals import pseudo_residuals
from latentvars.plots.responsibilities import responsibilities
from latentvars.plots.sampling import ranks, trace
from latentvars.plots.scatter import scatter
from latentvars.plots.states import states
from latentvars.plots.strip import band, strip
from latentvars.plots.sweep import sweep
from latentvars.plots.transitions import transitions

__all__ = [
    "band",
    "calibration",
    "components",
    "emissions",
    "evaluation",
    "forest",
    "latent",
    "loadings",
    "neighbours",
    "objective",
    "pit",
    "predictive_check",
    "pseudo_residuals",
    "ranks",
    "responsibilities",
    "restarts",
    "scatter",
    "states",
    "strip",
    "sweep",
    "trace",
    "transitions",
]

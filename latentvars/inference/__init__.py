"""One loop, and the algorithms that run in it."""

from latentvars.inference.aligning import Alignment, align
from latentvars.inference.amortised import Amortised
from latentvars.inference.degenerate import Keep, Refuse, Restart
from latentvars.inference.density import Laplace, Pathfinder
from latentvars.inference.distributed import Distributed
from latentvars.inference.em import EM
from latentvars.inference.fit import Fit
from latentvars.inference.fitter import Fitter
from latentvars.inference.fitting import fit, from_point
from latentvars.inference.flow import Flow
from latentvars.inference.guide_steps import GuideSteps
from latentvars.inference.guides import Custom, Delta, FullRank, LowRank, MeanField
from latentvars.inference.monte_carlo_em import MonteCarloEM
from latentvars.inference.online_em import OnlineEM
from latentvars.inference.sampling import NUTS
from latentvars.inference.snapshots import Checkpoint
from latentvars.inference.stopping import AnyOf, Never, Plateau, Status, TimeLimit, Tolerance
from latentvars.inference.svi import SVI
from latentvars.inference.svi_recorded import Capture
from latentvars.inference.variational_em import VariationalEM

__all__ = [
    "EM",
    "NUTS",
    "SVI",
    "Alignment",
    "Amortised",
    "AnyOf",
    "Capture",
    "Checkpoint",
    "Custom",
    "Delta",
    "Distributed",
    "Fit",
    "Fitter",
    "Flow",
    "FullRank",
    "GuideSteps",
    "Keep",
    "Laplace",
    "LowRank",
    "MeanField",
    "MonteCarloEM",
    "Never",
    "OnlineEM",
    "Pathfinder",
    "Plateau",
    "Refuse",
    "Restart",
    "Status",
    "TimeLimit",
    "Tolerance",
    "VariationalEM",
    "align",
    "fit",
    "from_point",
]

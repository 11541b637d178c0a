"""One loop, and the algorithms that run in it."""

from latentvars.inference.amortised import Amortised
from latentvars.inference.density import Laplace, Pathfinder
from latentvars.inference.em.em import EM
from latentvars.inference.em.online_em import OnlineEM
from latentvars.inference.fits.aligning import Alignment, align
from latentvars.inference.fits.fit import Fit
from latentvars.inference.fitter import Fitter
from latentvars.inference.fitting import fit, from_point
from latentvars.inference.guided_em.guide_steps import GuideSteps
from latentvars.inference.guided_em.monte_carlo_em import MonteCarloEM
from latentvars.inference.guided_em.variational_em import VariationalEM
from latentvars.inference.guides.flow import Flow
from latentvars.inference.guides.guides import Custom, Delta, FullRank, LowRank, MeanField
from latentvars.inference.running.degenerate import Keep, Refuse, Restart
from latentvars.inference.running.distributed import Distributed
from latentvars.inference.running.snapshots import Checkpoint
from latentvars.inference.running.stopping import AnyOf, Never, Plateau, Status, TimeLimit, Tolerance
from latentvars.inference.sampling import NUTS
from latentvars.inference.svi.recorded import Capture
from latentvars.inference.svi.svi import SVI

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

"""Where Pyro's handlers live: roles of sites, score, E-step weights, unconstrained ↔ constrained."""

from latentvars.program.choices import Choices
from latentvars.program.gaps import check_missing
from latentvars.program.globals import GlobalSite, GlobalSpace
from latentvars.program.label_checks import check_labels
from latentvars.program.locals import continuous_locals
from latentvars.program.modules import model_modules, model_parameters, network_dtype
from latentvars.program.program import Bound, Expectation, Program
from latentvars.program.restriction import Restriction
from latentvars.program.roles import Roles

__all__ = [
    "Bound",
    "Choices",
    "Expectation",
    "GlobalSite",
    "GlobalSpace",
    "Program",
    "Restriction",
    "Roles",
    "check_labels",
    "check_missing",
    "continuous_locals",
    "model_modules",
    "model_parameters",
    "network_dtype",
]

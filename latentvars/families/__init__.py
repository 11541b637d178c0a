"""Exponential families: statistics, mean parameters → arguments, conjugate priors; the M-step's table."""

from pyro.distributions import TorchDistribution

from latentvars.families.base import Arguments, Family, MStep, Reference, Selection, Statistics
from latentvars.families.discrete import discrete_families
from latentvars.families.factor import factor_families
from latentvars.families.leaves import batch_shape, laws, leaves, without_wrappers
from latentvars.families.normal import normal_families

FAMILIES: dict[type[TorchDistribution], Family] = {**normal_families(), **discrete_families(), **factor_families()}


def family_of(fn: TorchDistribution) -> Family | None:
    """The family of a plain distribution, or None where it is not in the table."""
    return FAMILIES.get(type(fn))


__all__ = [
    "Arguments",
    "Family",
    "MStep",
    "Reference",
    "Selection",
    "Statistics",
    "batch_shape",
    "family_of",
    "laws",
    "leaves",
    "without_wrappers",
]

"""Ways to start: groups of observations from which a model estimates its first globals, or draws of its prior."""

from latentvars.starts.grouping import (
    Grouping,
    Hierarchical,
    KMeansPlusPlus,
    Memberships,
    Points,
    PriorDraws,
    RandomRows,
    Search,
    Start,
    blurred,
)

__all__ = [
    "Grouping",
    "Hierarchical",
    "KMeansPlusPlus",
    "Memberships",
    "Points",
    "PriorDraws",
    "RandomRows",
    "Search",
    "Start",
    "blurred",
]

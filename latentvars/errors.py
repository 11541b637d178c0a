"""The errors of latentvars: one tree, and every class is also the builtin that callers would expect.

A message says what was given, what is needed, and what to do about it.
"""

from typing import Any


class LatentVarsError(Exception):
    """Root of all errors that latentvars raises on purpose.

    Args:
        given: what was found, with its numbers and names.
        needed: what would have been right.
        remedy: what to change, as an imperative sentence.

    Attributes:
        fit: where a run was broken off, the fit before the pass that failed (a :class:`latentvars.Fit` with status
            ``FAILED``), which can be read, saved and resumed; None where there is none. Errors that are not ours get
            the same attribute when they break a run off.
    """

    fit: Any = None

    def __init__(self, given: str, needed: str = "", remedy: str = "") -> None:
        # Pyro's trace handler and pickle rebuild an error from its message alone
        super().__init__(f"{given}\n  needed: {needed}\n  do: {remedy}" if needed else given)
        self.given, self.needed, self.remedy = given, needed, remedy


class ShapeError(LatentVarsError, ValueError):
    """Tensors, lengths or weights whose shapes do not fit together."""


class DataError(LatentVarsError, ValueError):
    """Values that no model can be fitted to: empty, infinite, constant where a variance is wanted."""


class MissingDataError(DataError):
    """Missing entries (NaN) where they are not supported."""


class ModelError(LatentVarsError, ValueError):
    """A model or guide that breaks the contract of :class:`latentvars.contract.LatentModel`."""


class SupportError(ModelError):
    """A site whose distribution or support the algorithm cannot handle."""


class SettingError(LatentVarsError, ValueError):
    """A hyper-parameter outside its range."""


class NumericalError(LatentVarsError, ArithmeticError):
    """A computation that became non-finite, with the site and the batch in which it did."""


class NameUnknownError(LatentVarsError, KeyError):
    """A site or column of that name does not exist."""

    def __str__(self) -> str:
        return str(self.args[0])


class KindError(LatentVarsError, TypeError):
    """A value of the wrong kind, as a belief where a vector is wanted."""


class LabelSwitchingError(LatentVarsError, ValueError):
    """Draws of which some call a component, state or factor by the name of another."""


class StorageError(LatentVarsError, OSError):
    """A file that is missing, unknown, of a newer version, or not complete."""


class ProcessError(LatentVarsError, RuntimeError):
    """A process of a run over several that failed, or is gone."""

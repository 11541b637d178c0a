"""A private copy of the user's model, bound to rows that it can read."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from latentvars.contract import LatentModel
from latentvars.errors import ModelError
from latentvars.program import Program, check_labels, check_missing
from latentvars.rows import Rows


def prepared(model: LatentModel, data: Any) -> Rows:
    """Rows as the model wants them: it may have a ``prepare(rows)`` that checks and reshapes them."""
    rows = Rows.of(data)
    prepare = getattr(model, "prepare", None)
    return rows if prepare is None else prepare(rows)


@dataclass(frozen=True)
class Restrictions:
    """What is known of the globals before a fit.

    Attributes:
        fixed: global → its value, NaN where an entry is free.
        tied: global → whole numbers, equal where entries share one value, negative where they are alone.
    """

    fixed: Mapping[str, Any] = field(default_factory=dict)
    tied: Mapping[str, Any] = field(default_factory=dict)


def bind(
    model: LatentModel, data: Any, known: Restrictions | None = None, *, start: bool = True
) -> tuple[Rows, Program]:
    """The checked rows, and the program of a private copy of the model.

    Args:
        model: the user's model, left as it is.
        data: rows, or what becomes rows.
        known: globals that are known or tied.
        start: whether networks may take their scales from the data, before training.
    """
    rows = prepared(model, data)
    trained = _copied(model)
    start_networks = getattr(trained, "start_networks", None)
    if start and start_networks is not None:
        start_networks(rows)
    program = Program.of(trained, rows)
    check_missing(program, rows)
    check_labels(program, rows)
    return rows, program if known is None else program.restricted(known.fixed, known.tied)


def _copied(model: LatentModel) -> LatentModel:
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise ModelError(
            given=f"{type(model).__name__} cannot be copied: {error}",
            needed="a model that copy.deepcopy accepts: fitting works on a copy",
            remedy="detach tensors that are attributes of the model, and keep no open files or locks in it",
        ) from error


def check_estimable(model: LatentModel, rows: Rows) -> None:
    """The model's own objections to these rows, where it has a ``check``."""
    check = getattr(model, "check", None)
    if check is not None:
        check(rows)

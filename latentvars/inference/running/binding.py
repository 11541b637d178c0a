"""A private copy of the user's model, bound to rows that it can read."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from latentvars.contract import LatentModel
from latentvars.errors import LatentVarsError, ModelError
from latentvars.inference.running.whole import Whole
from latentvars.program import Program, check_labels, check_missing
from latentvars.rows import Rows
from latentvars.rows.column import CHUNK


def prepared(model: LatentModel, data: Any) -> Rows:
    """Rows as the model wants them: it may have a ``prepare(rows)`` that checks and reshapes them."""
    rows = Rows.of(data)
    prepare = getattr(model, "prepare", None)
    if prepare is None:
        return rows
    return _prepared_in_parts(prepare, rows) if rows.streamed else prepare(rows)


def _prepared_in_parts(prepare: Callable[[Rows], Rows], rows: Rows) -> Rows:
    """Rows that stay in their files, all of which ``prepare`` has seen."""
    for low, part in rows.parts(CHUNK):
        try:
            found = prepare(part)
        except LatentVarsError as error:
            error.add_note(f"positions count from row {low}")
            raise
        if (found.lengths is None) != (rows.lengths is None):
            return rows.as_sequence()  # an error that says why not
    return rows


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
    model: LatentModel,
    data: Any,
    known: Restrictions | None = None,
    *,
    start: bool = True,
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
        start_networks(rows.seen)
    program = Program.of(trained, rows)
    check_missing(program, rows)
    check_labels(program, rows)
    return rows, program if known is None else program.restricted(known.fixed, known.tied)


def bind_again(model: LatentModel, whole: Whole, known: Restrictions) -> Program:
    """The program of another copy of the model, for rows that :func:`bind` has checked; the same in every process."""
    if not whole.scattered:
        return bind(model, whole.own, known)[1]
    trained = _copied(model)
    start_networks = getattr(trained, "start_networks", None)
    if start_networks is not None:
        start_networks(whole.seen)
    return Program.of(trained, whole.own, first=whole.first).restricted(known.fixed, known.tied)


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

"""Criteria of a sweep against what was swept over."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from latentvars.errors import SettingError
from latentvars.plots.canvas import canvas, colour, marker, tidy
from latentvars.studies import Sweep

STYLES = ("-", "--", ":", "-.")


def sweep(
    result: Sweep,
    criteria: Sequence[str] = ("bic", "icl"),
    *,
    labels: tuple[str, str] | None = None,
    axis: Axes | None = None,
) -> Figure:
    """Criteria against the number of components, the best of each in a ring; several structures are several lines.

    Values that are numbers stand on an axis of numbers; so do tuples that begin with one, a line for each of what
    follows; other values stand side by side. ``"elpd"`` is drawn as −2 elpd, on the scale of the others. Values that
    failed are left out.

    Args:
        result: of :func:`latentvars.sweep`.
        criteria: names as in :meth:`latentvars.studies.Sweep.criterion`; one a line style.
        labels: of the two axes.
        axis: where to draw; a new figure by default.

    Raises:
        NameUnknownError: there is no such criterion.
        SettingError: no fit has one of them, or none was asked for.
    """
    if not criteria:
        raise SettingError("no criteria", "one or more", 'write criteria=("bic",)')
    lines = _lines(result)
    figure, axis = canvas(axis)
    for number, name in enumerate(criteria):
        found = _smaller_is_better(result.criterion(name), name)
        best = result.best_value(name)
        for group, (label, places) in enumerate(lines.items()):
            text = " ".join(part for part in (label, "−2 elpd" if name == "elpd" else name.upper()) if part)
            kept = {place: found[value] for value, place in places.items() if not math.isnan(found[value])}
            tint = colour(group if len(lines) > 1 else number)
            style = STYLES[(number if len(lines) > 1 else 0) % len(STYLES)]
            axis.plot(
                list(kept), list(kept.values()), style, color=tint, marker=marker(group if len(lines) > 1 else number),
                markersize=4.5, linewidth=1.4, label=text,
            )  # fmt: skip
            if best in places:
                axis.plot(
                    places[best], found[best], "o", markersize=13, markerfacecolor="none", markeredgecolor=tint,
                    markeredgewidth=1.8, linestyle="none",
                )  # fmt: skip
    _ticks(axis, result, lines)
    axis.set(xlabel=(labels or ("components", ""))[0] if labels or _is_numeric(result) else "")
    axis.set_ylabel((labels or ("", "criterion (smaller is better; best ringed)"))[1])
    tidy(axis)
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _smaller_is_better(found: Mapping[Any, float], name: str) -> dict[Any, float]:
    return {value: -2 * number if name == "elpd" else number for value, number in found.items()}


def _lines(result: Sweep) -> dict[str, dict[Any, float]]:
    """Label of a line → value → its place on the axis."""
    fitted = [value for value in result.values if value in result.fits]
    if not _is_numeric(result):
        return {"": {value: float(result.values.index(value)) for value in fitted}}
    lines: dict[str, dict[Any, float]] = {}
    for value in sorted(fitted, key=_number):
        rest = value[1:] if isinstance(value, tuple) else ()
        lines.setdefault(", ".join(map(str, rest)), {})[value] = _number(value)
    # in the order in which structures were asked for, so that colours do not depend on which K each began with
    order = dict.fromkeys(", ".join(map(str, value[1:] if isinstance(value, tuple) else ())) for value in fitted)
    return {label: lines[label] for label in order}


def _number(value: Any) -> float:
    return float(value[0] if isinstance(value, tuple) else value)


def _is_numeric(result: Sweep) -> bool:
    firsts = [value[0] if isinstance(value, tuple) and value else value for value in result.values]
    return all(isinstance(first, int | float | np.number) and not isinstance(first, bool) for first in firsts)


def _ticks(axis: Axes, result: Sweep, lines: Mapping[str, Mapping[Any, float]]) -> None:
    if not _is_numeric(result):
        axis.set_xticks(range(len(result.values)), [str(value) for value in result.values], rotation=30, ha="right")
    elif all(place == round(place) for places in lines.values() for place in places.values()):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))

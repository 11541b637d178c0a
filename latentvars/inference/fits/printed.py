"""A fit as text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from latentvars.errors import KindError
from latentvars.inference.fits.optima import Optima
from latentvars.inference.running.algorithm import Algorithm, OneGo
from latentvars.posterior.shared import SharedPosterior


@dataclass(frozen=True)
class Outcome:
    """What of a fit is printed.

    Attributes:
        head: the model, the algorithm, and how the run ended.
        size: how much data there were, and what the run took.
        value: the log-likelihood, and the criteria.
        notes: of the algorithm and of the globals.
        shared: the posterior of discrete globals.
        collapsed: components that stand on a few rows.
        empty: values of discrete locals that no row has.
        optima: where the starts ended.
    """

    head: str
    size: str
    value: str
    notes: tuple[str, ...]
    shared: SharedPosterior | None
    collapsed: tuple[str, ...]
    empty: tuple[str, ...]
    optima: Optima | None


def printed(outcome: Outcome) -> str:
    """How a run ended, what it found, and what is to be known of it."""
    lines = [outcome.size, outcome.value, *outcome.notes]
    if outcome.shared is not None:
        mode = ", ".join(f"{name} = {value.tolist()}" for name, value in outcome.shared.mode.items())
        lines.append(f"{mode} with probability {float(outcome.shared.probs.max()):.4f}")
    if outcome.collapsed:
        lines.append(f"collapsed onto a few rows: {', '.join(outcome.collapsed)}; the optimum is spurious")
    if outcome.empty:
        lines.append(f"empty: {', '.join(outcome.empty)}; no row belongs to it")
    if outcome.optima is not None:
        lines.append(str(outcome.optima))
    return "\n  ".join([outcome.head, *lines])


def explained(algorithm: Algorithm | OneGo | None, state: Any, shared: SharedPosterior | None) -> str:
    """How each global was maximised: a table of global, where it enters, rule; KindError where EM did not do it."""
    plan = getattr(state, "plan", None)
    if plan is None:
        raise KindError(
            given=f"a fit by {type(algorithm).__name__}",
            needed="a fit by EM in this process",
            remedy="call explain() on the fit that lv.fit(model, data, lv.EM()) returned",
        )
    lines = [("global", "enters", "rule")] + [
        (rule.name, rule.enters, rule.reason if rule.closed or not rule.possible else f"L-BFGS on Q: {rule.reason}")
        for rule in plan.rules
    ]
    if shared is not None:
        size = len(shared.choices)
        lines += [(name, "–", f"summed out over {size} joint values") for name in shared.choices.names]
    widths = [max(len(line[k]) for line in lines) for k in range(2)]
    return "\n".join(f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in lines)

"""A fit as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from latentvars.errors import KindError

if TYPE_CHECKING:
    from latentvars.inference.fits.fit import Fit


def explained(fit: Fit) -> str:
    """How each global was maximised: a table of global, where it enters, rule; KindError where EM did not do it."""
    plan = getattr(fit.state, "plan", None)
    if plan is None:
        raise KindError(
            given=f"a fit by {type(fit.algorithm).__name__}",
            needed="a fit by EM in this process",
            remedy="call explain() on the fit that lv.fit(model, data, lv.EM()) returned",
        )
    lines = [("global", "enters", "rule")] + [
        (rule.name, rule.enters, rule.reason if rule.closed or not rule.possible else f"L-BFGS on Q: {rule.reason}")
        for rule in plan.rules
    ]
    if fit.shared is not None:
        size = len(fit.shared.choices)
        lines += [(name, "–", f"summed out over {size} joint values") for name in fit.shared.choices.names]
    widths = [max(len(line[k]) for line in lines) for k in range(2)]
    return "\n".join(f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in lines)


def printed(fit: Fit) -> str:
    """How a run ended, what it found, and what is to be known of it."""
    kind = "log-likelihood" if fit.exact else "log-likelihood (ELBO)"
    size = float(fit.rows.weights.sum()) if fit.extent is None else fit.extent.weight
    count = str(len(fit.rows)) if fit.extent is None else f"{fit.extent.rows} in {fit.extent.processes} processes"
    by = "" if fit.algorithm is None else f" by {type(fit.algorithm).__name__}"
    lines = [
        f"Fit of {type(fit.model).__name__}{by}: {fit.status.value}",
        f"  rows {count}, passes {len(fit.history)}, {fit.seconds:.2f} s, seed {fit.seed}",
        f"  {kind} {fit.log_likelihood:.4f} nats ({fit.log_likelihood / size:.6f} per row), "
        f"free parameters {fit.free_parameters}, BIC {fit.bic:.3f}",
    ]
    notes = getattr(fit.algorithm, "notes", None)
    if notes is not None and fit.state is not None:
        lines += [f"  {note}" for note in notes(fit.state)]
    lines += [f"  {note}" for note in getattr(fit.globals, "notes", ())]
    if fit.shared is not None:
        mode = ", ".join(f"{name} = {value.tolist()}" for name, value in fit.shared.mode.items())
        lines.append(f"  {mode} with probability {float(fit.shared.probs.max()):.4f}")
    if fit.collapsed:
        lines.append(f"  collapsed onto a few rows: {', '.join(fit.collapsed)}; the optimum is spurious")
    if fit.empty:
        lines.append(f"  empty: {', '.join(fit.empty)}; no row belongs to it")
    if fit.optima is not None:
        lines.append(f"  {fit.optima}")
    return "\n".join(lines)

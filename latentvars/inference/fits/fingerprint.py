"""What tells one fit from another: hashes of the model, the data and what was learnt."""

from __future__ import annotations

import dataclasses
import hashlib

from latentvars.inference.fits.saving import text
from latentvars.inference.running.algorithm import GlobalsPosterior
from latentvars.program import Program, model_modules
from latentvars.rows import Rows
from latentvars.storage import class_name, digest


def fingerprint(program: Program, globals_: GlobalsPosterior, rows: Rows) -> dict[str, str]:
    """SHA-256 of ``model`` (class, settings, sites and shapes), ``data`` and ``fit`` (globals, weights, buffers).

    Rows that stay in files are read once.
    """
    sites = {site.name: tuple(site.shape) for site in program.space.sites}
    locals_ = (*program.roles.discrete, *program.roles.continuous, *program.roles.observed)
    settings = text(program.model) if dataclasses.is_dataclass(program.model) else ""
    described = f"{class_name(type(program.model))}|{settings}|{sites}|{locals_}|{program.dtype}"
    weights = {
        f"{prefix}.{name}": value
        for prefix, module in model_modules(program.model).items()
        for name, value in module.state_dict().items()
    }
    learnt = {f"globals.{name}": value for name, value in globals_.tensors().items()} | weights
    model = hashlib.sha256(described.encode()).hexdigest()
    return {"model": model, "data": rows.digest(), "fit": digest(learnt)}

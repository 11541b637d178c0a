"""Reading a saved fit."""

from __future__ import annotations

import copy
import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from types import FunctionType
from typing import Any

import pyro.distributions
import torch
from torch import Tensor

from latentvars import inference, models
from latentvars.contract import LatentModel
from latentvars.distributions import StickBreaking
from latentvars.errors import ModelError, ShapeError, StorageError
from latentvars.inference.density import Normals
from latentvars.inference.fits.fit import Fit, prepared
from latentvars.inference.fits.optima import Optima
from latentvars.inference.guides.guides import Guide
from latentvars.inference.guides.posteriors import PointMass, Variational
from latentvars.inference.running.algorithm import Algorithm, GlobalsPosterior
from latentvars.inference.running.stopping import Status
from latentvars.inference.sampling import Draws
from latentvars.inference.sampling.draws import LOCALS
from latentvars.inference.sampling.local_draws import describe, with_locals
from latentvars.models import emissions
from latentvars.posterior.shared import shared_posterior
from latentvars.program import Program, model_modules
from latentvars.rows import Rows
from latentvars.storage import Registry, Undescribed, class_name, decode, decode_rows, read_fit


def load(
    path: str | os.PathLike[str],
    model: LatentModel | None = None,
    *,
    data: Any = None,
    algorithm: Algorithm | None = None,
    guide: Guide | None = None,
) -> Fit:
    """Read a fit that :meth:`latentvars.Fit.save` wrote: every readout is equal to the bit.

    The state of the optimiser is not stored: ``lv.fit(..., resume=fit)`` goes on from the point with a fresh one.

    Args:
        path: of the folder.
        model: an object like the one that was fitted, where the model is your own; it is copied, and the copy gets the
            trained weights. Models of :mod:`latentvars.models` are rebuilt without it.
        data: the rows, where they were not stored (``save(data=False)``).
        algorithm: the settings of the run, where they hold functions of your own; None leaves them out then.
        guide: the guide for the globals, where it is your own (:class:`latentvars.Custom`).

    Raises:
        StorageError: there is nothing, something else, a newer version, files that are incomplete or altered, or
            something of your own that has to be passed.
        ModelError: ``model`` is not like the one that was fitted.
        ShapeError: its networks have other weights.
    """
    document, tensors = read_fit(Path(path))
    known = registry()
    fitted = _model(document["model"], tensors, model, known)
    rows = _rows(document, tensors, None if data is None else prepared(fitted, data))
    drawing = decode(document.get("guide_of_locals"), tensors, known)
    if drawing is not None and getattr(fitted, "guide", None) is None:
        fitted = drawing.attached(fitted, rows)
    sampled = any(name.startswith(f"globals.{LOCALS}") for name in tensors)
    fitted = with_locals(fitted, rows) if sampled else fitted
    _restore_networks(fitted, document["networks"], tensors)
    program = Program.of(fitted, rows, getattr(torch, document["dtype"]))
    _check_globals(program, document["globals"]["shapes"])
    fixed, tied = (decode(document["globals"].get(what), tensors, known) for what in ("fixed", "tied"))
    program = program.restricted(fixed, tied)
    known_globals = _globals(document["globals"], program, tensors, guide, known)
    if sampled and isinstance(known_globals, Draws):
        describe(fitted, known_globals.local_draws(known_globals.size))
    shared = shared_posterior(program, known_globals.point, rows) if program.roles.choices else None
    return Fit(
        program if shared is None else program.given(shared.mode),
        rows,
        algorithm if algorithm is not None else _optional(document["algorithm"], tensors, known),
        known_globals,
        Status[document["status"]],
        tensors["history"].numpy(),
        tensors.get("row_log_likelihood"),
        document["seed"],
        document["seconds"],
        optima=decode(document["optima"], tensors, known),
        shared=shared,
        total=document.get("log_likelihood"),
    )


@functools.cache
def registry() -> Registry:
    """Everything that a stored description may name: our models and algorithms, Pyro's laws, torch's optimisers."""
    rooms = (models, emissions, inference)
    own = [getattr(room, name) for room in rooms for name in room.__all__]
    torch_classes = [
        kind
        for room in (pyro.distributions, torch.optim, torch.optim.lr_scheduler)
        for kind in vars(room).values()
        if isinstance(kind, type)
    ]
    classes = [kind for kind in [*torch_classes, *own, Optima, StickBreaking] if isinstance(kind, type)]
    settings = [field.default for kind in own if dataclasses.is_dataclass(kind) for field in dataclasses.fields(kind)]
    functions = [default for default in settings if isinstance(default, FunctionType)]
    return {class_name(entry): entry for entry in [*classes, *functions]}


def _rows(document: Mapping[str, Any], tensors: Mapping[str, Tensor], given: Rows | None) -> Rows:
    """The stored rows, or those given, which have to be the same."""
    if given is None and document["data"] is not None:
        return decode_rows(document["data"], tensors, document["data_digest"])
    if given is None:
        raise StorageError(
            given=f"a fit that was saved without its {document['rows']} rows",
            needed="the rows",
            remedy="pass the same rows: load(path, data=rows)",
        )
    if document["data_digest"] is not None and given.digest() != document["data_digest"]:
        raise StorageError(
            given="other rows than those that were fitted: their digest differs",
            needed=f"the same {document['rows']} rows, with the same lengths and weights",
            remedy="pass them; other rows are read by fit.latent(rows) and fit.score_rows(rows) later",
        )
    return given


def _model(
    saved: Mapping[str, Any], tensors: Mapping[str, Tensor], given: LatentModel | None, known: Registry
) -> LatentModel:
    """The user's model, copied, or else the one that the description makes."""
    if given is not None:
        if type(given).__qualname__ != saved["class"].rpartition(".")[2]:
            raise ModelError(
                given=f"model= of class {type(given).__qualname__}",
                needed=f"the class that was fitted: {saved['class']}",
                remedy="pass that one, with the settings it was fitted with",
            )
        return copy.deepcopy(given)
    try:
        if saved["settings"] is not None:
            return decode(saved["settings"], tensors, known)
    except Undescribed:
        pass
    raise StorageError(
        given=f"the fit of a model that cannot be rebuilt from the file: {saved['class']}",
        needed="the model itself",
        remedy=f"pass it: load(path, model={saved['class'].rpartition('.')[2]}(...))",
    )


def _optional(saved: Mapping[str, Any], tensors: Mapping[str, Tensor], known: Registry) -> Any:
    """A described value, or None where it holds something of the user's own."""
    try:
        return None if saved["settings"] is None else decode(saved["settings"], tensors, known)
    except Undescribed:
        return None


def _restore_networks(model: LatentModel, saved: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Put weights, buffers, modes and frozen weights into the (private) networks of a model."""
    stored = {name.removeprefix("networks."): value for name, value in tensors.items() if name.startswith("networks.")}
    networks = model_modules(model)
    needed = {f"{prefix}.{name}": value for prefix, m in networks.items() for name, value in m.state_dict().items()}
    wrong = [name for name in {**stored, **needed} if not _alike(stored.get(name), needed.get(name))]
    if wrong:
        raise ShapeError(
            given=f"networks whose weights are not those that were stored: {', '.join(wrong[:5])}",
            needed="the same names, shapes and precisions",
            remedy="pass model= with the networks that it was fitted with",
        )
    for prefix, module in networks.items():
        lead = f"{prefix}."
        module.load_state_dict({n[len(lead) :]: value for n, value in stored.items() if n.startswith(lead)})
        for name, part in module.named_modules():
            part.training = lead + name in saved["training"]
        for name, weight in module.named_parameters():
            weight.requires_grad_(lead + name not in saved["frozen"])


def _alike(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and one.shape == other.shape and one.dtype == other.dtype


def _check_globals(program: Program, shapes: Mapping[str, list[int]]) -> None:
    found = {site.name: list(site.shape) for site in program.space.sites}
    if found != dict(shapes):
        raise ModelError(
            given=f"a model with the globals {found}",
            needed=f"the globals that were fitted: {dict(shapes)}",
            remedy="pass model= with the settings it was fitted with",
        )


def _globals(
    saved: Mapping[str, Any], program: Program, tensors: Mapping[str, Tensor], guide: Guide | None, known: Registry
) -> GlobalsPosterior:
    stored = {name.removeprefix("globals."): value for name, value in tensors.items() if name.startswith("globals.")}
    if saved["class"] == PointMass.__name__:
        return PointMass({name: stored[name] for name in program.space.names})
    if saved["class"] == Draws.__name__:
        return Draws.rebuilt(program.space, stored)  # type: ignore[return-value]  (its point is a cached property)
    if saved["class"] == Normals.__name__:
        return Normals.rebuilt(program.space, stored)  # type: ignore[return-value]  (its point is a cached property)
    if saved["class"] != Variational.__name__:
        raise StorageError(f"globals known as {saved['class']}", "a point, a guide or draws", "upgrade latentvars")
    settings = copy.deepcopy(guide) if guide is not None else _optional(saved["guide"], tensors, known)
    if settings is None:
        raise StorageError(
            given=f"a fit whose guide for the globals is your own: {saved['guide']['text']}",
            needed="that guide",
            remedy="pass it: load(path, guide=lv.Custom(guide))",
        )
    start = program.space.constrain(torch.zeros(program.space.size, dtype=program.dtype))[0]
    built = settings.build(program.space, start, program.dtype)
    needed = built.state_dict()
    wrong = [name for name in {**stored, **needed} if not _alike(stored.get(name), needed.get(name))]
    if wrong:
        raise ShapeError(
            given=f"a guide whose parameters are not those that were stored: {', '.join(wrong[:5])}",
            needed="the same names, shapes and precisions",
            remedy="pass guide= as it was fitted",
        )
    built.load_state_dict(stored)
    return Variational(built)  # type: ignore[return-value]  (its point is a cached property)

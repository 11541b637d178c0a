"""Writing a fit into a folder: the description as JSON, all tensors as safetensors, the DataTree as netCDF."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from latentvars.inference.amortised.settings import settings_of
from latentvars.inference.fits.optima import Optima
from latentvars.inference.running.algorithm import Algorithm, GlobalsPosterior, OneGo
from latentvars.inference.running.stopping import Status
from latentvars.posterior.datatree import provenance
from latentvars.program import Program, model_modules
from latentvars.rows import Rows
from latentvars.storage import Json, Undescribed, class_name, encode, encode_rows, write_fit

if TYPE_CHECKING:
    import xarray as xr

ADDRESS = re.compile(r" at 0x[0-9a-f]+")


class Savable(Protocol):
    """What is written: :class:`latentvars.Fit`."""

    @property
    def program(self) -> Program: ...
    @property
    def rows(self) -> Rows: ...
    @property
    def algorithm(self) -> Algorithm | OneGo | None: ...
    @property
    def globals(self) -> GlobalsPosterior: ...
    @property
    def status(self) -> Status: ...
    @property
    def history(self) -> np.ndarray: ...
    @property
    def row_log_likelihood(self) -> Tensor: ...
    @property
    def scores(self) -> Tensor | None: ...
    @property
    def total(self) -> float | None: ...
    @property
    def extent(self) -> object | None: ...
    @property
    def seed(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    @property
    def optima(self) -> Optima | None: ...

    def to_datatree(self) -> xr.DataTree: ...


def described(fit: Savable) -> dict[str, Any]:
    """How a fit came about, as values that netCDF and JSON hold."""
    model = fit.program.model
    settings = {"model_settings": text(model)} if dataclasses.is_dataclass(model) else {}
    return {
        "model": class_name(type(model)),
        **settings,
        "algorithm": "none: given parameters" if fit.algorithm is None else text(fit.algorithm),
        "status": f"{fit.status.name}: {fit.status.value}",
        "seed": str(fit.seed),
        "passes": len(fit.history),
    }


def text(value: Any) -> str:
    """A repr that is the same in every process."""
    return ADDRESS.sub("", repr(value))


def save(fit: Savable, path: Path, *, overwrite: bool, data: bool, tree: bool | xr.DataTree) -> Path:
    """Write a fit whole or not at all; see :meth:`latentvars.Fit.save`."""
    if fit.extent is not None:  # each process has rows of its own
        return _write(fit, path, overwrite, False, None, tree)
    return _write(fit, path, overwrite, data and not fit.rows.streamed, fit.rows.digest(), tree)


def save_snapshot(fit: Savable, path: Path, digest: str | None) -> Path:
    """Write a fit without its rows, in the place of an earlier one; without a digest any rows are taken for its own."""
    return _write(fit, path, True, False, digest, False)


def _write(fit: Savable, path: Path, overwrite: bool, data: bool, digest: str | None, tree: bool | xr.DataTree) -> Path:
    tensors = {"history": torch.from_numpy(fit.history.copy())}
    if fit.scores is not None and fit.extent is None:
        tensors["row_log_likelihood"] = fit.scores
    body = {
        **provenance(),
        "model": _description(fit.program.model, "model", tensors),
        "algorithm": _description(fit.algorithm, "algorithm", tensors),
        "guide_of_locals": encode(settings_of(fit.program.model), tensors, "guide_of_locals"),
        "globals": _globals(fit, tensors),
        "networks": _networks(fit.program.model, tensors),
        "optima": encode(fit.optima, tensors, "optima"),
        "status": fit.status.name,
        "seed": fit.seed,
        "seconds": fit.seconds,
        "log_likelihood": fit.total,
        "dtype": str(fit.program.dtype).removeprefix("torch."),
        "schema": encode(dataclasses.asdict(fit.rows.schema), tensors, "schema"),
        "rows": len(fit.rows),
        "data_digest": digest,
        "data": encode_rows(fit.rows, tensors) if data else None,
    }
    if tree is True:
        tree = fit.to_datatree()
    return write_fit(path, body, tensors, tree or None, overwrite=overwrite)


def _description(value: Any, where: str, tensors: dict[str, Tensor]) -> Json:
    """What a value is rebuilt from, or why it cannot be."""
    own: dict[str, Tensor] = {}
    try:
        settings, reason = encode(value, own, where), None
    except Undescribed as error:
        settings, reason, own = None, str(error), {}
    tensors.update(own)
    return {"class": class_name(type(value)), "text": text(value), "settings": settings, "undescribed": reason}


def _globals(fit: Savable, tensors: dict[str, Tensor]) -> Json:
    """The class of what is known of the globals, with its tensors and, for a guide, its settings."""
    tensors.update({f"globals.{name}": value for name, value in fit.globals.tensors().items()})
    guide = _description(getattr(fit.algorithm, "guide", None), "guide", tensors)
    shapes = {site.name: list(site.shape) for site in fit.program.space.sites}
    fixed = encode(fit.program.space.fixed, tensors, "fixed")
    tied = encode(fit.program.space.tied, tensors, "tied")
    return {"class": type(fit.globals).__name__, "guide": guide, "shapes": shapes, "fixed": fixed, "tied": tied}


def _networks(model: Any, tensors: dict[str, Tensor]) -> Json:
    """Weights and buffers into ``tensors``; which parts are in training mode, and which weights are frozen."""
    training, frozen = [], []
    for prefix, module in model_modules(model).items():
        tensors.update({f"networks.{prefix}.{name}": value for name, value in module.state_dict().items()})
        training += [_joined(prefix, name) for name, part in module.named_modules() if part.training]
        frozen += [_joined(prefix, name) for name, weight in module.named_parameters() if not weight.requires_grad]
    return {"training": training, "frozen": frozen}


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}.{name}"

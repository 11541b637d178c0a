"""``guide="auto"``: an amortised guide for the continuous locals of a model that has none."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn

from latentvars.contract import LatentModel
from latentvars.errors import ModelError, SettingError, SupportError
from latentvars.inference.amortised.network import LocalsGuide
from latentvars.inference.amortised.pushed import Place
from latentvars.inference.running.binding import prepared
from latentvars.inference.running.settings import check_at_least
from latentvars.program import continuous_locals, network_dtype
from latentvars.program.run import Site
from latentvars.randomness import generator
from latentvars.rows import Rows

Covariance = Literal["full", "diagonal"]
NETWORK = "guide_network"  # the attribute of a model that holds it


@dataclass(frozen=True)
class Amortised:
    """A guide for the continuous locals: a network from the columns of a row to a normal (Kingma & Welling 2014).

        q(z_n | x_n) : z = T(u),  u ~ Normal(A x + f(x), L(x) L(x)ᵀ)

    x are all columns of the row, standardised (counts by log(1 + x)), zero where an entry is missing, and, of columns
    with gaps, which are; T maps real numbers onto the support of each local. A x + f(x) contains the exact posterior of
    linear normal models. ``lv.fit(..., guide="auto")`` is ``guide=lv.Amortised()``; the fitted model has an ordinary
    ``guide(rows)``, and its weights are trained and saved as those of other networks.

    Attributes:
        hidden: widths of the hidden layers of f and L; (): a line and a constant covariance.
        covariance: "full": over all locals of a row together; "diagonal": independent numbers.
        seed: of the first weights.
    """

    hidden: tuple[int, ...] = (64,)
    covariance: Covariance = "full"
    seed: int = 0

    def __post_init__(self) -> None:
        for width in self.hidden:
            check_at_least("hidden", width, 1)
        if self.covariance not in get_args(Covariance):
            raise SettingError(f"covariance={self.covariance!r}", '"full" or "diagonal"', "correct it")

    def attached(self, model: LatentModel, data: Any) -> LatentModel:
        """A copy of a model with such a guide; the model itself where it has no continuous locals.

        Constants of the network (centre and scale of each column) come from the data. The copy serves wherever a model
        does, as in ``lv.load(path, model=...)`` or plain ``pyro.infer``.

        Args:
            model: without ``guide``.
            data: rows, or what becomes rows.

        Raises:
            SettingError: a model with a guide of its own.
            SupportError: rows that are sequences; a local in a further plate, or without a map from real numbers.
            ModelError: a model that breaks the contract, or cannot be given attributes.
        """
        if getattr(model, "guide", None) is not None:
            raise SettingError(
                given=f"guide={self} for {type(model).__name__}, which has a guide of its own",
                needed="a model without guide(rows)",
                remedy="leave guide= out",
            )
        rows = prepared(model, data)
        dtype = network_dtype(model) or torch.float64
        sites = continuous_locals(model, rows, dtype)
        if not sites:
            return model
        _check(sites, rows)
        places = [Place.of(site) for site in sites.values()]
        network = LocalsGuide(places, rows.seen, self.hidden, self.covariance == "full", dtype, generator(self.seed))
        network.settings = self
        return _with(model, network)


def with_guide(model: LatentModel, data: Any, guide: Literal["auto"] | Amortised | None) -> LatentModel:
    """The model with what ``guide=`` of :func:`latentvars.fit` asks for."""
    if guide is None:
        return model
    if not isinstance(guide, Amortised) and guide != "auto":
        raise SettingError(
            given=f"guide={guide!r}",
            needed='"auto" or lv.Amortised(...): how continuous locals are drawn',
            remedy="write a guide of your own as the model's method guide(rows); guides for globals are a setting of "
            "lv.SVI(guide=...)",
        )
    return (guide if isinstance(guide, Amortised) else Amortised()).attached(model, data)


def settings_of(model: LatentModel) -> Amortised | None:
    """The settings of the guide that was attached to a model; None where none was."""
    network = getattr(model, NETWORK, None)
    return network.settings if isinstance(network, LocalsGuide) else None


def _check(sites: Mapping[str, Site], rows: Rows) -> None:
    if rows.lengths is not None:
        raise SupportError(
            given=f'guide="auto" for the continuous locals {list(sites)} of rows that are sequences',
            needed="rows that are single observations: the network reads as many numbers of each",
            remedy="write guide(rows), with a recurrent network or a sum over steps, as a method of the model",
        )
    for name, site in sites.items():
        if len(site.frames) > 1:
            plates = [frame for dim, frame in site.frames.items() if dim != -1]
            raise SupportError(
                given=f"the continuous local {name!r} in the plate {plates[0]!r} besides that of the rows",
                needed="all numbers of a local as one event",
                remedy=f"draw {name!r} with .to_event() in the place of the plate, or write guide(rows)",
            )


def _with(model: LatentModel, network: LocalsGuide) -> LatentModel:
    try:
        made = copy.deepcopy(model)
        put = setattr if isinstance(made, nn.Module) else object.__setattr__  # also of frozen dataclasses
        put(made, NETWORK, network)
        put(made, "guide", network.guide)
        put(made, "guide_marginals", network.marginals)
    except Exception as error:
        raise ModelError(
            given=f"{type(model).__name__} cannot be given a guide: {error}",
            needed="an object that can be copied and given attributes",
            remedy="write guide(rows) as a method of the model",
        ) from error
    return made

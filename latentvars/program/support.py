"""Whether what a model observes fits its distributions: in shape, and in their supports.

Densities are computed without Pyro's own checks, and some are finite outside their support: an exponential at −1 would
be taken as it is.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from pyro.distributions import Categorical, TorchDistribution
from pyro.distributions.hmm import HiddenMarkovModel
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from torch import Tensor
from torch.distributions import Independent
from torch.distributions.constraints import Constraint, is_dependent

from latentvars.errors import DataError, ShapeError
from latentvars.program.run import Run, Site
from latentvars.rows import Batch


def check_support(run: Run, batch: Batch) -> None:
    """Every observed value of a validated run lies in its support, where that does not depend on the globals.

    Raises:
        DataError: with the site, its distribution and the rows.
    """
    for name, site in run.local.items():
        for support, kind, bad in _outside(site):
            if bool(bad.any()):
                at = batch.index[bad.expand(len(batch))]
                raise DataError(
                    given=f"values outside the support of site {name!r} ~ {kind} in {len(at)} rows, "
                    f"the first {at[:5].tolist()}",
                    needed=f"values in {support}",
                    remedy="correct these rows, or give the site a distribution with their support",
                )


def check_shape(site: Site) -> None:
    """What a site observes is laid out like its distribution: rows last among the plates, then one event.

    Raises:
        ShapeError: with both shapes; such values would be broadcast against one another.
    """
    events = len(site.fn.event_shape)
    value, batch = tuple(site.value.shape), tuple(site.fn.batch_shape)
    lead, event = value[: max(0, len(value) - events)], value[max(0, len(value) - events) :]
    own_steps = isinstance(site.fn, HiddenMarkovModel) or hasattr(site.fn, "factors")  # take as many as there are
    fits = len(value) >= events and len(lead) <= len(batch) and lead == batch[len(batch) - len(lead) :]
    if not site.value.numel() or (fits and (own_steps or event == tuple(site.fn.event_shape))):
        return
    raise ShapeError(
        given=f"site {site.name!r} observes values of shape {list(value)} where its distribution has the shape "
        f"{list(batch)} for rows and plates and {list(site.fn.event_shape)} for one value",
        needed="one value of the distribution for each row: the number of features that the model was written for",
        remedy="pass a vector of numbers for scalars (x[:, 0]), add .to_event(1) for several features, or transpose "
        "columns that stand in a plate",
    )


def _outside(site: Site) -> Iterator[tuple[str, str, Tensor]]:
    """Support, distribution and rows ``[B]`` (or ``[1]``) with a value outside, for a site whose support is known."""
    fn, folded, counts = site.fn, 0, site.mask
    while isinstance(fn, Independent | ExpandedDistribution | MaskedDistribution):
        if isinstance(fn, MaskedDistribution):  # where it is masked the value may be anything
            return
        folded += fn.reinterpreted_batch_ndims if isinstance(fn, Independent) else 0
        fn = fn.base_dist
    if not site.observed or not site.value.numel() or not fn._validate_args or not _is_fixed(fn):
        return
    support: Constraint = fn.support  # type: ignore[assignment]
    bad = ~support.check(site.value)
    bad = bad.reshape(*bad.shape[: bad.dim() - folded], -1).any(-1) if folded else bad
    if counts is not None:
        bad = bad & counts
    if bad.dim():
        yield str(support), type(fn).__name__, bad.reshape(-1, bad.shape[-1]).any(0)


def _is_fixed(fn: TorchDistribution) -> bool:
    """Whether the support is the same whatever the parameters are."""
    support = inspect.getattr_static(type(fn), "support", None)
    return isinstance(fn, Categorical) or (isinstance(support, Constraint) and not is_dependent(support))

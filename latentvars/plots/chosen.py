"""The numbers of the globals, by the names that ``summary()`` gives them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from latentvars.errors import KindError, NameUnknownError, SettingError
from latentvars.inference import Fit
from latentvars.posterior.datatree import globals_group

MOST = 24


def chain_draws(fit: Fit, of: str | Sequence[str] | None) -> dict[str, np.ndarray]:
    """Draws of a sampler ``[C, S]`` of each number that is asked for.

    Args:
        fit: by a sampler.
        of: globals or numbers of them, as ``"loc"`` or ``"loc[0, height]"``; None: all.

    Raises:
        KindError: no chains.
        NameUnknownError: there is no such number.
        SettingError: more numbers than a picture has room for.
    """
    known = fit.knowledge()
    if known.draws is None or known.log_q is not None:
        raise KindError(
            given=f"a fit by {type(fit.algorithm).__name__}, which has no chains",
            needed="a fit by lv.NUTS()",
            remedy="draw how the run went by objective(), what was learnt by forest()",
        )
    group = globals_group(known)
    wanted = None if of is None else [of] if isinstance(of, str) else list(of)
    found, met = {}, set()
    for name, variable in group.data_vars.items():
        labels = [group[axis].values for axis in variable.dims[2:]]
        for place in np.ndindex(variable.shape[2:]):
            own = ", ".join(str(along[k]) for along, k in zip(labels, place, strict=True))
            label = f"{name}[{own}]" if own else str(name)
            asked = {str(name), label} & set(wanted or ())
            met |= asked
            if wanted is None or asked:
                found[label] = variable.values[(slice(None), slice(None), *place)]
    missing = [name for name in wanted or () if name not in met]
    if missing:
        raise NameUnknownError(f"{missing[0]!r}", f"one of {list(group.data_vars)}, or a number of them", "correct of=")
    if len(found) > MOST:
        raise SettingError(
            f"{len(found)} numbers to draw", f"at most {MOST}", f'choose some, as of="{next(iter(found))}"'
        )
    return found

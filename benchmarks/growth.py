"""How time and memory of a pass of EM grow with rows, steps, states and features: slopes on logarithmic scales.

Every size is measured in a process of its own; ``python benchmarks/growth.py chain 1 50000 5 2`` is one of them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import chains
import mixtures
import numpy as np
from harness import HERE, Line, Settings, started
from worker import clocked, forget_peak, peak, say, set_threads

PASSES = (2, 42)  # so many that what a call takes besides is lost in their difference


@dataclass(frozen=True)
class Sizes:
    """One fit: sequences × steps (rows are sequences of one step), states or components, features, passes."""

    kind: str
    rows: int
    steps: int
    states: int
    features: int
    passes: tuple[int, int] = PASSES

    def arguments(self) -> list[str]:
        return [self.kind, *map(str, (self.rows, self.steps, self.states, self.features, *self.passes))]


MIXTURE, CHAIN, CHAINS = (
    Sizes("mixture", 50_000, 1, 8, 8),
    Sizes("chain", 1, 100_000, 5, 2),
    Sizes("chain", 200, 200, 8, 4),
)
QUICK = ("rows", "passes", "sequences")  # what grows in a quick run


def studies(quick: bool) -> list[tuple[str, str, list[Sizes], list[int]]]:
    """What grows, its name in the model, the fits, and the sizes of what grows."""
    doubled = [1, 4] if quick else [1, 2, 4, 8]
    by_rows = [replace(MIXTURE, rows=MIXTURE.rows * k) for k in doubled]
    by_sequences = [replace(CHAINS, rows=CHAINS.rows * k) for k in doubled]
    by_steps = [replace(CHAIN, steps=CHAIN.steps * k) for k in doubled]
    by_components = [replace(MIXTURE, states=8 * k) for k in doubled]
    by_states = [replace(CHAIN, states=5 * k) for k in doubled]
    by_features = [replace(MIXTURE, features=4 * k) for k in doubled]
    by_passes = [replace(MIXTURE, passes=(10 * k, 20 * k)) for k in doubled]
    found = [
        ("mixture, full", "rows", by_rows, [one.rows for one in by_rows]),
        ("mixture, full", "components", by_components, [one.states for one in by_components]),
        ("mixture, full", "features", by_features, [one.features for one in by_features]),
        ("mixture, full", "passes", by_passes, [one.passes[1] for one in by_passes]),
        ("chains, diag", "sequences", by_sequences, [one.rows for one in by_sequences]),
        ("chain, diag", "steps", by_steps, [one.steps for one in by_steps]),
        ("chain, diag", "states", by_states, [one.states for one in by_states]),
    ]
    return [one for one in found if one[1] in QUICK] if quick else found


def lines(settings: Settings) -> Iterator[Line]:
    for model, axis, fits, sizes in studies(settings.quick):
        found = [next(started(one.arguments(), settings, HERE / "growth.py")) for one in fits]
        time, memory = (slope(sizes, [one[name] for one in found]) for name in ("seconds", "bytes"))
        yield Line(
            "growth",
            f"{axis} {sizes[0]:,} to {sizes[-1]:,}",
            f"EM iteration: {model}",
            ours=found[-1]["seconds"],
            memory=(found[-1]["bytes"], None),
            note=f"time grows with the power {time:.2f}, peak memory {memory:.2f}",
        )


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The power with which values grow, by least squares on logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(np.maximum(values, 1e-9)), 1)[0])


def measured(sizes: Sizes) -> dict[str, float]:
    """Seconds of a pass, and the growth of the peak memory by a fit, in bytes."""
    prepared(replace(sizes, rows=max(2, sizes.rows // 50), steps=max(1, min(sizes.steps, 200))))(sizes.passes[0])
    set_threads()
    call = prepared(sizes)
    forget_peak()
    before = peak()
    few, many = sizes.passes
    short = min(clocked(call, few) for _ in range(3))
    long = min(clocked(call, many) for _ in range(3))
    return {"seconds": (long - short) / (many - few), "bytes": max(peak() - before, 1.0)}


def prepared(sizes: Sizes) -> Any:
    if sizes.kind == "mixture":
        return mixtures.our_em(mixtures.simulate("full", sizes.rows, sizes.features, sizes.states))
    spec = replace(
        chains.SPECS[0], sequences=sizes.rows, steps=sizes.steps, states=sizes.states, features=sizes.features
    )
    return chains.our_em(chains.simulate(spec))


if __name__ == "__main__":
    kind, *numbers = [one for one in sys.argv[1:] if not one.startswith("--")]
    rows, steps, states, features, *passes = map(int, numbers)
    say(measured(Sizes(kind, rows, steps, states, features, (passes[0], passes[1]) if passes else PASSES)))

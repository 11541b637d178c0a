"""The plan of the M-step: for each global where it enters, and by which rule it is maximised.

A global that enters one argument of an exponential family as a pure selection, under a flat or conjugate prior, has a
closed form (Dempster, Laird & Rubin 1977, section 2). Where globals enter is found by probing: the model is run at two
random points on two sketches of the data, and what moves with what is read off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor

from latentvars.contract import Factor
from latentvars.distributions import Flat, StickBreaking, completed
from latentvars.families import (
    Arguments,
    Family,
    Reference,
    Selection,
    Statistics,
    batch_shape,
    family_of,
    leaves,
    without_wrappers,
)
from latentvars.inference.em.repeated import Repeated
from latentvars.program import Program
from latentvars.randomness import generator
from latentvars.rows import Batch

PROBE_SEEDS = (31_337, 27_644)


@dataclass(frozen=True)
class Leaf:
    """A plain distribution of a family whose arguments do not depend on the rows.

    Attributes:
        paths: the factors that share it (the steps of a chain, say).
        family: its exponential family.
        sources: argument → where it comes from: a selection of a global, a constant, or None (computed).
        targets: joint batch shape of the arguments in each factor; they differ by axes of one element only, as the
            enumerated dimensions of alternate steps do.
    """

    paths: tuple[str, ...]
    family: Family
    sources: Mapping[str, Selection | Tensor | None]
    targets: tuple[Size, ...]

    @property
    def name(self) -> str:
        return self.paths[0]

    @property
    def target(self) -> Size:
        """The shape in which the statistics of all its factors are laid out."""
        return self.targets[0]

    def taken(self, values: Mapping[str, Tensor]) -> Arguments:
        """The arguments that are selections of globals or constants, at given globals."""
        sources = self.sources.items()
        return {n: one.take(values) if isinstance(one, Selection) else one for n, one in sources if one is not None}

    def statistics(self, found: Mapping[str, Factor], reference: Reference) -> Statistics:
        """Expected sufficient statistics of all its factors together."""
        total: Statistics = {}
        for path, target in zip(self.paths, self.targets, strict=True):
            for name, value in self.family.statistics(completed(found[path]), target, reference).items():
                value = value.reshape(self.target + value.shape[len(target) :])
                total[name] = total[name] + value if name in total else value
        return total


@dataclass(frozen=True)
class Rule:
    """How one global is maximised.

    Attributes:
        name: the global.
        enters: the factors and arguments it stands in, for the reader.
        leaf: the leaf of the closed form, None for L-BFGS.
        argument: the argument of the closed form.
        reason: why there is no closed form, else the name of the closed form.
        prior: the conjugate prior without wrappers; None where it is flat, or depends on other globals.
        hierarchical: whether the prior depends on other globals and is read anew at each M-step.
        possible: whether there is anything to maximise (not so for a simplex of one category).
    """

    name: str
    enters: str
    leaf: Leaf | None
    argument: str
    reason: str
    prior: TorchDistribution | None = None
    hierarchical: bool = False
    possible: bool = True

    @property
    def closed(self) -> bool:
        return self.leaf is not None


@dataclass(frozen=True)
class Plan:
    """The M-step of a model.

    Attributes:
        leaves: factors reduced to sufficient statistics.
        retained: factors without any, whose posterior weights are kept until the M-step is done.
        rules: one for each global.
        references: leaf → the point about which its second moments are taken, and its least variance.
        floors: global without a closed form that is the scale of a normal → least value of each entry, 0: none.
        repeated: the objective of globals without a closed form, from pass to pass.
    """

    leaves: tuple[Leaf, ...]
    retained: tuple[str, ...]
    rules: tuple[Rule, ...]
    references: Mapping[str, Reference]
    floors: Mapping[str, Tensor] = field(default_factory=dict)
    repeated: Repeated = field(default_factory=Repeated, compare=False, repr=False)

    @property
    def numeric(self) -> tuple[str, ...]:
        return tuple(rule.name for rule in self.rules if not rule.closed and rule.possible)


def all_leaves(factors: Mapping[str, Factor]) -> dict[str, Factor]:
    """Every plain distribution below the sites, by path."""
    return {path: leaf for name, factor in factors.items() for path, leaf in leaves(name, factor)}


def make_plan(program: Program, first: Batch, start: Mapping[str, Tensor], floor: float) -> Plan:
    """Find where each global enters, by probing the model at two random points on two sketches of the data.

    Args:
        program: the model.
        first: some real rows, for the centres of the statistics.
        start: any valid globals.
        floor: least variance of a normal, as a share of the variance of the data.
    """
    probes = [probe(program, seed) for seed in PROBE_SEEDS]
    traced = [program.traced(values, sketch) for values, sketch in zip(probes, program.sketches, strict=True)]
    runs = [all_leaves(run.factors(program.dtype)) for run in traced]
    leaves_found, retained, entries = [], [], {name: [] for name in program.space.names}
    dependence = {path: _depends(factor, probes[0]) for path, factor in runs[0].items()}
    for path, factor in runs[0].items():
        leaf = _leaf(path, factor, runs[1][path], probes)
        if leaf is None and dependence[path]:
            retained.append(path)
            for name in dependence[path]:
                entries[name].append((path, None, ""))
        elif leaf is not None and dependence[path]:
            leaves_found.append(leaf)
    merged = _merge(leaves_found)
    for leaf in merged:
        dependent = {name for path in leaf.paths for name in dependence[path]}
        selected = {s.name for s in leaf.sources.values() if isinstance(s, Selection)}
        for argument, source in leaf.sources.items():
            names = {source.name} if isinstance(source, Selection) else dependent - selected if source is None else ()
            for name in names:
                entries[name].append((leaf.name, leaf, argument))
    priors = {name: traced[0].sites[name].fn for name in program.space.names}
    rules = [_rule(program, name, entries[name], probes[0], priors) for name in program.space.names]
    references = _references(program, merged, first, start, floor)
    plan = Plan(tuple(merged), tuple(retained), tuple(_ordered(rules)), references)
    return replace(plan, floors=_floors(program, plan, runs, probes, first, start, floor)) if floor else plan


def _ordered(rules: list[Rule]) -> list[Rule]:
    """Location before spread: the order of a family's arguments."""

    def place(rule: Rule) -> int:
        return list(rule.leaf.family.events).index(rule.argument) if rule.leaf else 99

    return sorted(rules, key=place)


def probe(program: Program, seed: int) -> dict[str, Tensor]:
    """Random interior globals that require gradients; almost surely no two numbers in them are equal."""
    space = program.space.unrestricted
    free = torch.randn(space.size, generator=generator(seed), dtype=torch.float64).to(program.dtype)
    values, _ = space.constrain(0.7 * free)
    return {name: value.detach().requires_grad_() for name, value in values.items()}


def _depends(factor: Factor, values: Mapping[str, Tensor]) -> set[str]:
    """The globals on which the log density of a factor depends."""
    log_prob = factor.fn.log_prob(factor.value)
    if not log_prob.requires_grad:
        return set()
    gradients = torch.autograd.grad(log_prob.sum(), list(values.values()), allow_unused=True, retain_graph=True)
    return {name for name, gradient in zip(values, gradients, strict=True) if gradient is not None}


def _leaf(path: str, factor: Factor, other: Factor, probes: list[dict[str, Tensor]]) -> Leaf | None:
    """The leaf of a factor, or None where it has no family or its arguments depend on the rows."""
    family = family_of(factor.fn)
    if family is None:
        return None
    first, second = family.arguments(factor.fn), family.arguments(other.fn)
    target = batch_shape(first, family.events)
    if any(first[name].shape != second[name].shape for name in first):
        return None
    sources = {name: _source(family.events[name], first[name], second[name], probes) for name in first}
    return Leaf((path,), family, sources, (target,))


def _source(events: int, first: Tensor, second: Tensor, probes: list[dict[str, Tensor]]) -> Selection | Tensor | None:
    """Where an argument comes from: a selection of one global, a constant, or something computed."""
    if not first.requires_grad:
        return first.detach()
    event = first.shape[first.dim() - events :]
    size = event.numel()
    for name, value in probes[0].items():
        if value.numel() % size or (events and value.shape[value.dim() - events :] != event):
            continue
        blocks, others = value.detach().reshape(-1, size), probes[1][name].detach().reshape(-1, size)
        wanted, check = first.detach().reshape(-1, size), second.detach().reshape(-1, size)
        index = torch.cdist(wanted, blocks, p=torch.inf).argmin(1)
        near = torch.allclose(blocks[index], wanted, rtol=1e-9, atol=1e-12)
        if near and torch.allclose(others[index], check, rtol=1e-9, atol=1e-12):
            return Selection(name, value.shape, event, index.reshape(first.shape[: first.dim() - events]))
    return None


def _merge(found: list[Leaf]) -> list[Leaf]:
    """Leaves with the same family and the same sources become one, as the transitions of every step of a chain."""
    merged: list[Leaf] = []
    for leaf in found:
        twin = next((i for i, other in enumerate(merged) if _same(leaf, other)), None)
        if twin is None:
            merged.append(leaf)
        else:
            other = merged[twin]
            merged[twin] = Leaf(other.paths + leaf.paths, other.family, other.sources, other.targets + leaf.targets)
    return merged


def _same(leaf: Leaf, other: Leaf) -> bool:
    if leaf.family is not other.family or leaf.sources.keys() != other.sources.keys():
        return False
    if [size for size in leaf.target if size > 1] != [size for size in other.target if size > 1]:
        return False
    events = leaf.family.events
    for name, source in leaf.sources.items():
        twin = other.sources[name]
        if isinstance(source, Selection) and isinstance(twin, Selection):
            alike = source.name == twin.name and torch.equal(
                _compact(source.index, leaf.target), _compact(twin.index, other.target)
            )
        elif isinstance(source, Tensor) and isinstance(twin, Tensor):
            alike = torch.equal(_compact(source, leaf.target, events[name]), _compact(twin, other.target, events[name]))
        else:
            alike = False
        if not alike:
            return False
    return True


def _compact(value: Tensor, target: Size, events: int = 0) -> Tensor:
    """A tensor that broadcasts to ``target + event``, without the axes along which ``target`` has one element."""
    lead, event = value.shape[: value.dim() - events], value.shape[value.dim() - events :]
    padded = (1,) * (len(target) - len(lead)) + tuple(lead)
    kept = [size for size, wanted in zip(padded, target, strict=True) if wanted > 1]
    return value.reshape((*kept, *event))


def _rule(
    program: Program,
    name: str,
    entries: list,
    values: dict[str, Tensor],
    priors: Mapping[str, TorchDistribution],
) -> Rule:
    """Closed form where there is one; otherwise the first reason why not."""
    enters = ", ".join(sorted({f"{path}.{argument}" if argument else path for path, _, argument in entries})) or "–"
    prior = without_wrappers(priors[name])
    above = [other for other in priors if other != name and _prior_depends(priors[other], values[other], values[name])]

    restriction = program.space[name].restriction
    known = "" if restriction is None else f"; {restriction}"

    def numeric(reason: str) -> Rule:
        return Rule(name, enters, None, "", reason + known)

    if restriction is not None and not restriction.free:
        return Rule(name, enters, None, "", f"nothing to maximise{known}", possible=False)
    if not program.space[name].free:
        return Rule(name, enters, None, "", "has one possible value", possible=False)
    if not entries:
        return numeric("enters no factor of the rows")
    if above:
        return numeric(f"is a parameter of the prior of {', '.join(above)}")
    if len(entries) > 1:
        return numeric("enters several factors")
    _, leaf, argument = entries[0]
    if leaf is None:
        return numeric("its factor has no sufficient statistics free of the rows")
    if not isinstance(leaf.sources[argument], Selection):
        return numeric("enters through a computation")
    if not leaf.family.unrestricted(argument, program.space[name].support):
        return numeric(f"its support {program.space[name].support} restricts the argument")
    if not isinstance(prior, (Flat, *leaf.family.conjugate[argument])):
        return numeric(f"prior {type(prior).__name__} is not conjugate")
    if restriction is not None:
        source = leaf.sources[argument]
        assert isinstance(source, Selection)
        joint = isinstance(prior, StickBreaking) or (restriction.tied and not isinstance(prior, Flat))
        if joint or not restriction.separable(source.event.numel()):
            return numeric("what is fixed or tied has no closed form")
    kind = type(leaf.family).__name__.removesuffix("Family")
    prior_name = "flat prior" if isinstance(prior, Flat) else f"{type(prior).__name__} prior"
    hierarchical = any(_prior_depends(priors[name], values[name], values[other]) for other in priors if other != name)
    fixed = None if hierarchical or isinstance(prior, Flat) else prior
    return Rule(
        name, enters, leaf, argument, f"closed form: {kind} {argument}, {prior_name}{known}", fixed, hierarchical
    )


def _prior_depends(prior: torch.distributions.Distribution, at: Tensor, on: Tensor) -> bool:
    log_prob = prior.log_prob(at.detach())
    if not log_prob.requires_grad:
        return False
    return torch.autograd.grad(log_prob.sum(), on, allow_unused=True, retain_graph=True)[0] is not None


def _references(
    program: Program, merged: list[Leaf], first: Batch, start: Mapping[str, Tensor], floor: float
) -> dict[str, Reference]:
    with torch.no_grad():
        found = all_leaves(program.factor_distributions(start, first))
        return {leaf.name: leaf.family.reference(found[leaf.name], leaf.target, floor) for leaf in merged}


def _floors(
    program: Program,
    plan: Plan,
    runs: list[dict[str, Factor]],
    probes: list[dict[str, Tensor]],
    first: Batch,
    start: Mapping[str, Tensor],
    floor: float,
) -> dict[str, Tensor]:
    """Least values of globals that are maximised numerically and stand as the scale of a normal, as in regressions."""
    if not plan.numeric:
        return {}
    with torch.no_grad():
        real = all_leaves(program.factor_distributions(start, first))
    found: dict[str, Tensor] = {}
    for path, factor in runs[0].items():
        family = family_of(factor.fn)
        if family is None or "scale" not in family.events or path not in real:
            continue
        scales = [family.arguments(run[path].fn)["scale"] for run in runs]
        if scales[0].shape != scales[1].shape:
            continue
        source = _source(family.events["scale"], scales[0], scales[1], probes)
        if not isinstance(source, Selection) or source.name not in plan.numeric or source.event:
            continue
        least = family.reference(real[path], scales[0].shape, floor).least_variance
        if least is None:
            continue
        while least.dim() > source.index.dim():
            least = least.mean(0)
        flat = torch.zeros(source.shape, dtype=program.dtype).flatten()
        flat[source.index.flatten()] = least.to(flat.dtype).expand(source.index.shape).flatten().sqrt()
        found[source.name] = flat.reshape(source.shape)
    return found

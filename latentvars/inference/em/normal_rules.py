"""The closed forms of means and spreads of normal components, by the compiled core.

For the common case: means and spreads are globals of their own under flat priors, a spread for each component or one
for all. :mod:`latentvars.families.normal` has the same maxima for everything else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from latentvars.families import Reference, Selection, Statistics
from latentvars.families.normal import raised
from latentvars.families.tables import Form, MultivariateNormalTable, Packed, SphericalTable, Table, is_normal
from latentvars.inference.em.m_step_plan import Leaf, Plan
from latentvars.kernels.mixtures import Normals, maximum, maximum_of_sums


@dataclass(frozen=True)
class NormalRules:
    """The M-step of means and spreads.

    Attributes:
        leaf: of the components.
        table: theirs.
        loc: the global of means.
        spread: that of covariances or standard deviations.
        argument: where the latter stands.
    """

    leaf: Leaf
    table: Table
    loc: str
    spread: str
    argument: str

    @staticmethod
    def of(plan: Plan, leaf: Leaf, table: Table) -> NormalRules | None:
        """The rules of a leaf of a plan; None where they are others."""
        argument = "covariance_matrix" if isinstance(table, MultivariateNormalTable) else "scale"
        rules = {rule.argument: rule for rule in plan.rules if rule.leaf is not None and rule.leaf.name == leaf.name}
        if not is_normal(table) or rules.keys() != {"loc", argument}:
            return None
        if any(rule.prior is not None or rule.hierarchical for rule in rules.values()):
            return None
        components, size = leaf.target[0], plan.references[leaf.name].centre.numel()
        each = 1 if isinstance(table, MultivariateNormalTable) else size
        shared = table.form == Form.LINEAR
        wanted = (1 if shared else components) * (1 if table.form == Form.SPHERICAL else each)
        whole = _is_whole(leaf.sources["loc"], components * each) and _is_whole(leaf.sources[argument], wanted)
        return NormalRules(leaf, table, rules["loc"].name, rules[argument].name, argument) if whole else None

    def given(self, values: Mapping[str, Tensor]) -> Normals:
        """The components of S sets of globals ``[S, *shape]``, those of each after those of the one before."""
        loc, spread = values[self.loc], values[self.spread]
        components = self.leaf.target[0]
        loc = loc.reshape(len(loc) * components, -1)
        if isinstance(self.table, MultivariateNormalTable):
            return Normals(loc, spread.reshape(-1, *spread.shape[-2:]))
        if isinstance(self.table, SphericalTable):
            return Normals(loc, spread.reshape(-1))
        return Normals(loc, spread.reshape(-1, loc.shape[1]))

    def maximise(self, values: Mapping[str, Tensor], statistics: Statistics, at: Reference) -> dict[str, Tensor]:
        """Both globals, ``[S, *shape]``.

        Args:
            values: globals, ``[S, *shape]``.
            statistics: ``[S, *target, *event]``.
            at: about whose centre they are.
        """
        normals = self.given(values)
        rows, size = normals.loc.shape
        centre = at.centre.reshape(-1) if at.centre.numel() == size else at.centre.reshape(rows, size)
        least = None if at.least_variance is None else at.least_variance.reshape(-1)
        if isinstance(statistics, Packed):
            found, low = maximum_of_sums(normals, statistics.sums, centre, least)
        else:
            found, low = self._from_named(normals, statistics, centre, least)
        if least is not None and bool(low.any()):
            found.spread[low] = raised(found.spread[low], least)
        return {
            self.loc: found.loc.reshape(values[self.loc].shape),
            self.spread: found.spread.reshape(values[self.spread].shape),
        }

    def _from_named(
        self, normals: Normals, statistics: Statistics, centre: Tensor, least: Tensor | None
    ) -> tuple[Normals, Tensor]:
        rows, size = normals.loc.shape
        first, second = statistics["first"].reshape(rows, size), statistics["second"]
        weight = statistics["weight"].reshape(rows, -1)[:, 0]
        each = (size, size) if isinstance(self.table, MultivariateNormalTable) else (size,)
        return maximum(normals, weight, first, second.reshape(rows, *each), centre, least)


def _is_whole(source: Selection | Tensor | None, blocks: int) -> bool:
    """Whether an argument is a whole global in its own order."""
    return isinstance(source, Selection) and source.blocks == blocks and source.ordered

"""BeliefIndex: beliefs that can be searched, with the probability that what is found is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, final

import numpy as np

from latentvars.embedding.search.apart import apart, check_alike
from latentvars.embedding.search.beliefs import Beliefs, beside, read_beliefs
from latentvars.embedding.search.index import is_text
from latentvars.embedding.search.nearer import Nearer, nearer
from latentvars.embedding.search.uncertain import UncertainNeighbours, among_nearest, neighbours
from latentvars.embedding.vectors import Vectors
from latentvars.errors import SettingError, ShapeError

PROBABLE = "probability"


@final
@dataclass(frozen=True, eq=False)
class BeliefIndex:
    """Beliefs about where rows lie, and questions about which of them are near.

    A plain neighbour of a posterior mean is a statement without a doubt. Here a row is a neighbour with a probability,
    and a query whose belief is too wide can be silent. Distances are Euclidean in the space of the latent; two
    categories are 0 or 1 apart. Beliefs of different rows are independent given the globals; joint draws
    ``[S, N, W]``, as of ``fit.draw_latents``, carry what rows share through the globals.

    Args:
        beliefs: ``fit.latent(rows)`` (normal and categorical beliefs in closed form, others by draws); draws
            ``[S, N, W]``, also as ``fit.draw_latents`` gives them by site; or vectors with ``std``, whose coordinates
            are then independent.
        site: of the local, where the model has several.
        ids: of the rows; None: their names.
        draws: of beliefs that are neither normal nor categorical.
        seed: of these.

    Raises:
        KindError: vectors without standard deviations, or beliefs about whole sequences.
        DataError: ids that repeat.
        NameUnknownError: another site.
    """

    beliefs: Any
    site: str | None = None
    ids: Sequence[Any] | np.ndarray | None = field(default=None, repr=False)
    draws: int = 1_000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise SettingError(f"draws={self.draws}", "at least 1", "raise draws.")
        known, names = read_beliefs(self.beliefs, self.site, self.draws, self.seed)
        names = self.ids if self.ids is not None else names
        object.__setattr__(self, "beliefs", known)
        object.__setattr__(self, "ids", Vectors(known.means, names).ids)

    def __len__(self) -> int:
        return len(self.known.means)

    def __str__(self) -> str:
        return f"index of {self.known.what}"

    @property
    def known(self) -> Beliefs:
        """Beliefs as numbers."""
        return self.beliefs

    def distances(self, queries: Any, kind: str = "expected") -> np.ndarray:
        """Distances between beliefs, ``[Q, N]``.

        Of normal beliefs, in the units of the latent: ``"expected"``, the root of the expected squared distance
        √(|m − n|² + tr S + tr T) of independent z; ``"wasserstein"``, the 2-Wasserstein distance; ``"mean"``, between
        the means; and ``"kl"``, KL(p|q) + KL(q|p), nats (Jeffreys 1946). Of categories: ``"expected"``, the
        probability that they differ; ``"total-variation"`` (which is their Wasserstein distance), ``"hellinger"``,
        ``"jensen-shannon"`` (the root of the divergence, nats), ``"kl"``, ``"mean"``. Of draws: ``"expected"``,
        ``"mean"``.

        Args:
            queries: ids of rows here; or beliefs, as the constructor takes them.
            kind: which.

        Raises:
            NameUnknownError: ids that do not exist.
            KindError: beliefs of another family, or a kind that they do not have.
            ShapeError: beliefs of another width.
            DataError: divergences of beliefs without spread.
        """
        asked, _, own = self._asked(queries)
        found = apart(asked, self.known, kind)
        if own is not None:  # a row and itself are one variable
            found[np.arange(len(own)), own] = 0.0
        return found

    def probability_nearer(self, query: Any, a: Any, b: Any) -> Nearer:
        """P(z_a is nearer to z_query than z_b), for one triple or for several; ties count half.

        Of normal beliefs by numerical inversion of the characteristic function of a quadratic form (Imhof 1961), of
        categories in closed form, of draws by counting.

        Args:
            query: id or ids of rows here, or beliefs, M.
            a: ids of rows here, M or 1.
            b: ids of rows here, M or 1.

        Raises:
            NameUnknownError: ids that do not exist.
            ShapeError: numbers of ids that do not fit together.
        """
        asked, _, own = self._asked(query)
        check_alike(asked, self.known)
        of = np.arange(len(asked.means))
        places = self._names.positions
        one, other = places(a), places(b)
        if len({len(of), len(one), len(other)} - {1}) > 1:
            raise ShapeError(
                f"{len(of)} queries, {len(one)} and {len(other)} ids", "as many of each, or one", "pass triples."
            )
        of, one, other = (side.copy() for side in np.broadcast_arrays(of, one, other))
        found = nearer(asked.take(of), self.known.take(one), self.known.take(other))
        probability, error = found.probability.copy(), found.error.copy()
        fixed = one == other
        probability[fixed], error[fixed] = 0.5, 0.0
        if own is not None:  # what is asked of is the row itself, which is nowhere else
            for same, value in ((own[of] == one, 1.0), (own[of] == other, 0.0)):
                probability[same & ~fixed], error[same & ~fixed] = value, 0.0
        return Nearer(probability, error, found.draws)

    def probability_among_nearest(self, queries: Any, k: int = 1, *, draws: int = 1_000, seed: int = 0) -> np.ndarray:
        """The probability that each row is among the k nearest of each query, ``[Q, N]``; k for all rows together.

        Args:
            queries: ids of rows here, which are then not their own neighbours; or beliefs.
            k: how many are nearest.
            draws: common to all queries. The standard error is √(p (1 − p) / draws).
            seed: of the draws.

        Raises:
            SettingError: k below 1 or above the number of rows that can be found.
        """
        asked, _, own = self._asked(queries)
        return self._shares(asked, own, k, draws, seed)[0]

    def search(
        self,
        queries: Any,
        k: int = 10,
        *,
        by: str = PROBABLE,
        abstain: float = 0.0,
        draws: int = 1_000,
        seed: int = 0,
    ) -> UncertainNeighbours:
        """The k rows that are most probably among the k nearest of each query, and how probably.

        Args:
            queries: ids of rows here, which are then not their own neighbours; or beliefs.
            k: how many.
            by: ``"probability"``: those that maximise the expected number of right ones; or a kind of
                :meth:`distances`, whose nearest are then given with their probabilities.
            abstain: queries of which a smaller share of the k is expected to be right name nothing; 0: all answer.
            draws: common to all queries.
            seed: of the draws.

        Raises:
            SettingError: k below 1 or above the number of rows that can be found; ``abstain`` outside 0 to 1.
        """
        if not 0 <= abstain <= 1:
            raise SettingError(f"abstain={abstain}", "a share from 0 to 1", "change abstain.")
        asked, names, own = self._asked(queries)
        share, taken = self._shares(asked, own, k, draws, seed)
        scores = -share if by == PROBABLE else apart(asked, self.known, by)
        at, probability, error, confidence, silent = neighbours(share, scores, own, k, taken, abstain)
        ids = np.where(at < 0, "", self._names.ids[at])
        return UncertainNeighbours(ids, at, probability, error, confidence, silent, abstain, names, taken)

    @cached_property
    def _names(self) -> Vectors:
        return Vectors(self.known.means, self.ids)

    def _shares(self, asked: Beliefs, own: np.ndarray | None, k: int, draws: int, seed: int) -> tuple[np.ndarray, int]:
        check_alike(asked, self.known)
        most = len(self) - (own is not None)
        if not 1 <= k <= most:
            raise SettingError(f"k={k} among {most} rows", f"from 1 to {most}", "change k.")
        if draws < 1:
            raise SettingError(f"draws={draws}", "at least 1", "raise draws.")
        return among_nearest(asked, self.known, k, own, draws, seed)

    def _asked(self, queries: Any) -> tuple[Beliefs, np.ndarray, np.ndarray | None]:
        """Beliefs about queries and their ids; their positions where they are rows of this index."""
        if isinstance(queries, BeliefIndex):
            return beside(queries.known), np.asarray(queries.ids), None
        if is_text(queries):
            own = self._names.positions(queries)
            return self.known.take(own), self._names.ids[own], own
        asked = BeliefIndex(queries, self.site, draws=self.draws, seed=self.seed)
        return beside(asked.known), np.asarray(asked.ids), None

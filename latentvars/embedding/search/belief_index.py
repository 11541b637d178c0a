"""BeliefIndex: beliefs that can be searched, with the probability that what is found is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np

from latentvars.embedding.search.apart import apart, check_alike
from latentvars.embedding.search.belief_saving import save_beliefs
from latentvars.embedding.search.beliefs import Beliefs, beside, joined_beliefs, read_beliefs
from latentvars.embedding.search.filters import Where, allowed_rows
from latentvars.embedding.search.index import is_text, joined
from latentvars.embedding.search.metrics import check_count
from latentvars.embedding.search.nearer import Nearer, nearer
from latentvars.embedding.search.uncertain import UncertainNeighbours, among_nearest, neighbours
from latentvars.embedding.vectors import Provenance, Vectors
from latentvars.errors import DataError, SettingError, ShapeError
from latentvars.randomness import derive

PROBABLE = "probability"
UNKNOWN = Provenance()


@final
@dataclass(frozen=True, eq=False)
class BeliefIndex:
    """Beliefs about where rows lie, and questions about which of them are near.

    A plain neighbour of a posterior mean is a statement without a doubt. Here a row is a neighbour with a probability,
    and a query whose belief is too wide can be silent. Distances are Euclidean in the space of the latent; two
    categories are 0 or 1 apart. Beliefs of different rows are independent given the globals; joint draws
    ``[S, N, W]``, as of ``fit.draw_latents``, carry what rows share through the globals. A value: :meth:`add` and
    :meth:`remove` make another index.

    Probabilities are those of the model: that it is right, and that its beliefs are (a guide's are usually too narrow),
    nothing here can see. Where the model is wrong, rows are named with a confidence that they do not deserve, and where
    globals were plugged in, with a little too much of it. Look at :func:`latentvars.check_guide` and
    :func:`latentvars.pit` first; how often neighbours that are named with probability p are right can be counted where
    the truth is known.

    Args:
        beliefs: ``fit.latent(rows)`` (normal and categorical beliefs in closed form, others by draws); draws
            ``[S, N, W]``, also as ``fit.draw_latents`` gives them by site; or vectors with ``std``, whose coordinates
            are then independent.
        site: of the local, where the model has several.
        ids: of the rows; None: their names.
        draws: of beliefs that are neither normal nor categorical.
        seed: of these.
        metadata: name → ``[N]``, what searches may filter by; None: that of vectors.
        provenance: where beliefs come from; of vectors their own. Vectors from elsewhere are then refused.

    Raises:
        KindError: vectors without standard deviations, or beliefs about whole sequences.
        DataError: ids that repeat, or no rows.
        NameUnknownError: another site.
    """

    beliefs: Any
    site: str | None = None
    ids: Sequence[Any] | np.ndarray | None = field(default=None, repr=False)
    draws: int = 1_000
    seed: int = 0
    metadata: Mapping[str, Any] | None = field(default=None, repr=False)
    provenance: Provenance = UNKNOWN
    rows: Vectors = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_count("draws", self.draws)
        known, names = read_beliefs(self.beliefs, self.site, self.draws, self.seed)
        names = self.ids if self.ids is not None else names
        own = self.beliefs if isinstance(self.beliefs, Vectors) else Vectors(known.means)
        metadata = own.metadata if self.metadata is None else self.metadata
        where = own.provenance if self.provenance == UNKNOWN else self.provenance
        rows = Vectors(known.means, names, own.names, metadata=metadata, provenance=where)
        if not len(rows):
            raise DataError("no rows", "at least 1", "add rows.")
        held = {"beliefs": known, "ids": rows.ids, "metadata": rows.metadata, "provenance": where, "rows": rows}
        for name, value in held.items():
            object.__setattr__(self, name, value)

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
        places = self.rows.positions
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
        where: Where | None = None,
        exclude: Any = None,
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
            where: which rows may be found, as for :meth:`latentvars.Index.search`: a mapping from metadata to the value
                or values they may have, a function of the columns, or a mask. Probabilities are those of being among
                the k nearest of these.
            exclude: ids that may not be found.
            abstain: queries of which a smaller share of the k is expected to be right name nothing; 0: all answer.
            draws: common to all queries.
            seed: of the draws.

        Raises:
            SettingError: k below 1 or above the number of rows that can be found; ``abstain`` outside 0 to 1.
        """
        if not 0 <= abstain <= 1:
            raise SettingError(f"abstain={abstain}", "a share from 0 to 1", "change abstain.")
        asked, names, own = self._asked(queries)
        allowed = allowed_rows(self.rows, where, exclude)
        share, taken = self._shares(asked, own, k, draws, seed, allowed)
        scores = -share if by == PROBABLE else apart(asked, self.known, by)
        if allowed is not None:
            scores = np.where(allowed, scores, np.inf)
        at, probability, error, confidence, silent = neighbours(share, scores, own, k, taken, abstain)
        ids = np.where(at < 0, "", self.rows.ids[at])
        return UncertainNeighbours(ids, at, probability, error, confidence, silent, abstain, names, taken)

    def add(self, beliefs: Any, ids: Any = None, metadata: Mapping[str, Any] | None = None) -> BeliefIndex:
        """A new index with more rows behind these.

        Args:
            beliefs: as the constructor takes them, of the same family and width.
            ids: of the new rows; None: their names.
            metadata: of the new rows.

        Raises:
            KindError: beliefs of another family.
            ShapeError: beliefs of another width, or with another number of draws.
            DataError: other metadata, ids that are there already, or vectors from elsewhere.
        """
        more = BeliefIndex(beliefs, self.site, ids, self.draws, derive(self.seed, len(self)), metadata)
        check_alike(more.known, self.known)
        self._check_origin(more)
        known = joined_beliefs(self.known, more.known)
        rows = joined(self.rows, more.rows)
        return BeliefIndex(known, self.site, rows.ids, self.draws, self.seed, rows.metadata, self.provenance)

    def remove(self, ids: Any) -> BeliefIndex:
        """A new index without some rows.

        Raises:
            NameUnknownError: ids that are not in it.
            DataError: nothing would be left.
        """
        mask = np.ones(len(self), bool)
        mask[self.rows.positions(ids)] = False
        if not mask.any():
            raise DataError(f"all {len(self)} rows to be removed", "at least 1 that stays", "keep one.")
        rows, known = self.rows.take(mask), self.known.take(np.flatnonzero(mask))
        return BeliefIndex(known, self.site, rows.ids, self.draws, self.seed, rows.metadata, self.provenance)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the index into the new folder ``path``, whole or not at all, as JSON and safetensors.

        Args:
            path: the folder; :func:`latentvars.load_belief_index` reads it.
            overwrite: replace an earlier index of beliefs there.

        Raises:
            StorageError: something is in the way.
            KindError: metadata that are no numbers, text or dates.
        """
        return save_beliefs(self, Path(path), overwrite=overwrite)

    def _shares(
        self,
        asked: Beliefs,
        own: np.ndarray | None,
        k: int,
        draws: int,
        seed: int,
        allowed: np.ndarray | None = None,
    ) -> tuple[np.ndarray, int]:
        check_alike(asked, self.known)
        mask = np.ones(len(self), bool) if allowed is None else allowed
        most = int(mask.sum()) - (own is not None and bool(mask[own].any()))
        check_count("k", k, most)
        check_count("draws", draws)
        return among_nearest(asked, self.known, k, own, draws, seed, allowed)

    def _asked(self, queries: Any) -> tuple[Beliefs, np.ndarray, np.ndarray | None]:
        """Beliefs about queries and their ids; their positions where they are rows of this index."""
        if isinstance(queries, BeliefIndex):
            self._check_origin(queries)
            return beside(queries.known), np.asarray(queries.ids), None
        if is_text(queries):
            own = self.rows.positions(queries)
            return self.known.take(own), self.rows.ids[own], own
        asked = BeliefIndex(queries, self.site, draws=self.draws, seed=self.seed)
        self._check_origin(asked)
        return beside(asked.known), np.asarray(asked.ids), None

    def _check_origin(self, other: BeliefIndex) -> None:
        """DataError of vectors from elsewhere; draws and posteriors say nothing of where they come from."""
        if UNKNOWN not in (self.provenance, other.provenance):
            self.rows.check_comparable(other.rows)

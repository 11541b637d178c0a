"""Embedding: posterior means of a fit as a scikit-learn transformer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils import Tags

from latentvars.embedding.channels import Channel, Fitted, channels, checked, is_fit
from latentvars.embedding.frames import check_input_features, framed, names_of
from latentvars.embedding.reading import is_table, table_to_rows
from latentvars.embedding.taking import Taken
from latentvars.embedding.vectors import Vectors, as_vectors
from latentvars.embedding.working import at_once, conformed, embedded
from latentvars.errors import DataError, KindError, SettingError
from latentvars.rows import Rows, Schema
from latentvars.rows.layout import default_features

if TYPE_CHECKING:
    from latentvars.embedding.search import Engine, Index

STEPS = ("pooled", "each")


class Embedding(TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):
    """One fixed vector for each row: the posterior means E[z_n | x_n] of its local latents, side by side.

    Probabilities ``[K]`` of the components of a mixture or the states of a chain, posterior means ``[L]`` of a VAE.
    The beliefs are exact where locals are discrete or integrated out, those of the model's guide elsewhere; unseen rows
    are folded in by the same rule.

    The vector of a row is a function of the row and of the fit *to the bit*: whatever rows stand before, after or
    beside it, however many, and whatever the number of threads. Rows are computed in blocks of one shape in which the
    place of a row is a hash of its values, on one thread; :mod:`latentvars.embedding.blocks` tells why, and what is
    slow. (On another processor, or with another release of torch, the last digits may differ.)

    Args:
        source: a fit, or a recipe: anything that makes a fit from :class:`latentvars.Rows` when it is called, such as
            :class:`latentvars.Fitter`. With a recipe, ``fit`` runs it. With a fit, ``transform`` works at once, and
            ``fit`` fits nothing: it checks that the data look like those of the fit. ``clone`` shares the source.
        sites: the local site, or sites in this order; None: all, in the order of the model.
        steps: for sequences, ``"pooled"``: the mean over the row's own steps ``[N, W]``; ``"each"``: one vector for
            each step, ``[S, W]``, row after row. Without effect where a row is an observation.
        statistic: of each belief: ``"mean"``, ``"median"`` (of continuous locals), or ``"mode"`` (of categories and
            states as ones and zeros, of a chain along its most probable path).
        globals_draws: of the globals that each belief is averaged over; None: at their point (plug-in).
        refine: steps by which the guide's belief about each row is refined on its own; 0: as it is. For rows that a
            guide without amortisation has never met, and for an amortised one that is not close enough.
        batch_rows: rows that are taken up at a time, which bounds the memory and has no effect on the result.
        memory: bytes that the rows which are taken up may need, with their vectors; a lower ``batch_rows`` follows.

    Attributes:
        fit_: the fit (after ``fit``).
        n_features_in_: columns of the data, where they are one table.
        feature_names_in_: their names, where they have been given any.

    Arrays, nested lists and frames ``[N, D]`` are read by the rules of scikit-learn; everything else that
    :class:`latentvars.Rows` reads is welcome too (Rows, tensors, mappings of columns, lists of sequences).
    """

    def __init__(
        self,
        source: Any,
        sites: str | Sequence[str] | None = None,
        steps: str = "pooled",
        statistic: str = "mean",
        globals_draws: int | None = None,
        refine: int = 0,
        batch_rows: int = 65_536,
        memory: int | None = None,
    ) -> None:
        self.source = source
        self.sites = sites
        self.steps = steps
        self.statistic = statistic
        self.globals_draws = globals_draws
        self.refine = refine
        self.batch_rows = batch_rows
        self.memory = memory

    def fit(self, X: Any, y: Any = None) -> Embedding:
        """Run the recipe on ``X``; with a fit as the source, only check that it can read ``X``.

        Args:
            X: the data, N rows; at least two where a recipe learns from a table.
            y: ignored.

        Raises:
            KindError: the source is neither a fit nor a recipe.
            ModelError: the model has no local latents, or their posterior means depend on more than the row: on its
                position, or on a draw.
            NameUnknownError: ``sites`` names none of them.
            ValueError: data that cannot be read or fitted; further errors are those of the recipe.
        """
        self._check_settings()
        self._forget()
        if is_fit(self.source):
            self.fit_, rows = self.source, self._rows(X, learning=False)
        else:
            recipe, rows = _recipe(self.source), self._rows(X, learning=True)
            self.fit_ = checked(recipe(rows))
            self.schema_ = rows.schema
        self.channels_ = channels(self.fit_, conformed(self.fit_, rows), self.sites)
        return self

    def transform(self, X: Any, return_std: bool = False) -> Any:
        """Vectors of the rows, ``[N, W]``, or ``[S, W]`` for each of S steps, in the precision of the model.

        Args:
            X: the data, N rows, as those that were fitted.
            return_std: whether to give the posterior standard deviation of each coordinate too. Of a mean over steps
                it is that of 256 draws of whole sequences, always the same ones.

        Returns:
            An array, or what ``set_output`` asks for, with the names of the rows; with deviations a pair of them.

        Raises:
            NotFittedError: a recipe that ``fit`` has not run yet.
            ValueError: data unlike those that were fitted.
        """
        rows, parts = self._prepared(X)
        pieces = [piece for _, piece in self._pieces(rows, parts, return_std)]
        vectors = np.concatenate(pieces) if len(pieces) > 1 else pieces[0]
        names, container = self._names(parts), getattr(self, "_container", None)
        if not return_std:
            return framed(vectors, names, rows, X, container)
        values, deviations = np.split(vectors, 2, -1)
        return framed(values, names, rows, X, container), framed(deviations, names, rows, X, container)

    def inverse_transform(self, X: Any) -> np.ndarray:
        """The rows that vectors stand for: E[x | z], at the point of the globals.

        Of probabilities of components or states it is the average over these; of the mean over steps, the mean row.

        Args:
            X: vectors ``[M, W]`` as :meth:`transform` gives them, or :class:`latentvars.Vectors`.

        Returns:
            ``[M, ...]``, what the model observes.

        Raises:
            NotFittedError: nothing is known of the data yet.
            KindError: vectors of several locals, or a model with several observed sites.
            ShapeError: vectors of another width.
            DataError: vectors of another fit, or of categories and no probabilities.
        """
        from latentvars.embedding.decoding import decoded

        fitted = self._fitted()
        if not hasattr(self, "channels_") and getattr(fitted, "rows", None) is None:
            raise NotFittedError("the widths of the sites are not known yet. needed: data. do: call fit(X) first.")
        parts = self._channels(getattr(fitted, "rows", None))
        given, own = as_vectors(X), self._taken.provenance(fitted, parts)
        if given.provenance.fit not in ("", own.fit):
            raise DataError(
                given=f"vectors from {given.provenance}, to be decoded by {own}",
                needed="vectors of this fit, or an array, which says nothing of where it comes from",
                remedy="decode by their own fit; lv.align_vectors brings those of a refit into the axes of the old",
            )
        return decoded(fitted, parts, given.values)

    def vectors(self, X: Any, ids: Any = None, metadata: Any = None, *, return_std: bool = False) -> Vectors:
        """The vectors of :meth:`transform` with their ids and where they come from: what is searched and stored.

        Args:
            X: the data, N rows.
            ids: ``[N]``, of the vectors; the names of the rows by default, ``row/step`` of steps.
            metadata: name → ``[N]`` what else is known of them.
            return_std: whether to keep the posterior standard deviations.
        """
        rows, parts = self._prepared(X)
        pieces = [piece for _, piece in self._pieces(rows, parts, return_std)]
        values = np.concatenate(pieces) if len(pieces) > 1 else pieces[0]
        given = names_of(rows, slice(None), self._each(rows)) if ids is None else ids
        return self._made(values, given, parts, {} if metadata is None else metadata, return_std)

    def vector_parts(self, X: Any, ids: Any = None, *, return_std: bool = False) -> Iterator[Vectors]:
        """What :meth:`vectors` gives, of at most ``batch_rows`` rows at a time: for data that stay in files.

        Args:
            X: the data, N rows.
            ids: ``[N]``, where there is one vector for each row; the names of the rows by default.
            return_std: whether to keep the posterior standard deviations.
        """
        rows, parts = self._prepared(X)
        for part, values in self._pieces(rows, parts, return_std):
            given = names_of(rows, part, self._each(rows)) if ids is None else ids[part]
            yield self._made(values, given, parts, {}, return_std)

    def index(
        self, X: Any, ids: Any = None, metadata: Any = None, *, metric: str = "cosine", engine: Engine | None = None
    ) -> Index:
        """The vectors of rows as something to search in.

        Args:
            X: the data, N rows.
            ids: ``[N]``, of the vectors; the names of the rows by default.
            metadata: name → ``[N]`` what searches may filter by.
            metric: ``"cosine"``, ``"euclidean"`` or ``"inner"`` (product).
            engine: how it is searched; :class:`latentvars.Exact` by default.
        """
        from latentvars.embedding.search import Exact, Index

        return Index(self.vectors(X, ids, metadata), metric=metric, engine=engine or Exact())

    def export(
        self,
        X: Any,
        path: str | os.PathLike[str],
        *,
        ids: Any = None,
        precision: str = "float32",
        return_std: bool = False,
        overwrite: bool = False,
    ) -> Path:
        """Embed rows part by part into a file; see :func:`latentvars.embedding.export.export`."""
        from latentvars.embedding.export.streaming import export

        return export(self, X, path, ids=ids, precision=precision, return_std=return_std, overwrite=overwrite)

    def _each(self, rows: Rows) -> bool:
        return self.steps == "each" and rows.lengths is not None

    def _made(self, values: np.ndarray, ids: Any, parts: tuple[Channel, ...], metadata: Any, spread: bool) -> Vectors:
        values, deviations = np.split(values, 2, -1) if spread else (values, None)
        where = self._taken.provenance(self._fitted(), parts)
        return Vectors(values, ids, self._names(parts), deviations, metadata, where)

    def transform_parts(self, X: Any) -> Iterator[np.ndarray]:
        """What :meth:`transform` gives, as arrays of some rows at a time, in their order: for data that stay in files.

        Args:
            X: as for :meth:`transform`.

        Yields:
            Vectors of at most ``batch_rows`` rows, ``[B, W]``.
        """
        rows, parts = self._prepared(X)
        for _, piece in self._pieces(rows, parts, False):
            yield piece

    def _prepared(self, x: Any) -> tuple[Rows, tuple[Channel, ...]]:
        self._check_settings()
        rows = conformed(self._fitted(), self._rows(x, learning=False))
        return rows, self._channels(rows)

    @property
    def _taken(self) -> Taken:
        return Taken(self.statistic, self.globals_draws, self.refine, self.steps == "each")

    def _pieces(self, rows: Rows, parts: tuple[Channel, ...], spread: bool) -> Iterator[tuple[slice, np.ndarray]]:
        """Which rows, and their vectors, with the deviations behind them where these are wanted."""
        fitted, size = self._fitted(), at_once(rows, parts, self.steps == "each", self.batch_rows, self.memory)
        taken = replace(self._taken, each=self._each(rows))
        for low in range(0, len(rows), size):
            rows.check_unchanged()
            part = slice(low, low + size)
            some = rows if size >= len(rows) and not rows.streamed else rows.subset(part)
            yield part, embedded(fitted, some, parts, taken, spread)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the coordinates ``[W]``: ``z_component_0``, ... where the model names axes, otherwise ``z0``, ...

        Args:
            input_features: not used; checked against ``n_features_in_`` and ``feature_names_in_``.

        Raises:
            NotFittedError: nothing is known of the data yet.
            ShapeError: ``input_features`` of another length or other names.
        """
        fitted = self._fitted()
        if input_features is not None:
            given = np.asarray(input_features, dtype=object)
            size = getattr(self, "n_features_in_", len(given))
            check_input_features(given, size, getattr(self, "feature_names_in_", given))
        rows: Rows | None = getattr(fitted, "rows", None)
        if rows is not None or hasattr(self, "channels_"):
            return np.asarray(self._names(self._channels(rows)), dtype=object)
        raise NotFittedError("the widths of the sites are not known yet. needed: data. do: call fit(X) first.")

    def set_output(self, *, transform: str | None = None) -> Embedding:
        """What ``transform`` returns: ``"default"`` (arrays), ``"pandas"`` or ``"polars"``; None leaves it.

        Raises:
            SettingError: another container.
        """
        if transform not in (None, "default", "pandas", "polars"):
            raise SettingError(f"transform={transform!r}", "'default', 'pandas' or 'polars'", "change it.")
        if transform is not None:
            self._container = transform
        return self

    def sample(self, draws: int = 1) -> NoReturn:
        """An embedding has no draws.

        Raises:
            KindError: always.
        """
        raise KindError(
            given=f"{draws} draws asked of an embedding, which is one fixed vector for each row",
            needed="a belief, which can be sampled",
            remedy="draw from the posterior: fit.latent(rows).sample(site, draws)",
        )

    draws = sample

    @property
    def n_features_in_(self) -> int:
        """Columns of the data."""
        return len(self._table()[1])

    @property
    def feature_names_in_(self) -> np.ndarray:
        """Names of the columns of the data, where any have been given."""
        name, names = self._table()
        if names == default_features(name, (len(names),)):
            raise AttributeError("the data have no feature names")
        return np.asarray(names, dtype=object)

    def _table(self) -> tuple[str, tuple[str, ...]]:
        """The only column of the data and the names of its features.

        Raises:
            AttributeError: not fitted, or the data are no table.
        """
        schema = self._schema()
        if schema is None or [len(shape) for shape in schema.columns.values()] != [1]:
            raise AttributeError("the number of features is not known")
        ((name, shape),) = schema.columns.items()
        return name, schema.features.get(name, default_features(name, shape))

    def _schema(self) -> Schema | None:
        """What the data of the fit looked like, where it is known."""
        known = getattr(self.source, "schema", None) if is_fit(self.source) else None
        return getattr(self, "schema_", known)

    def _rows(self, x: Any, *, learning: bool) -> Rows:
        schema = self._schema()
        table = schema is None or [len(shape) for shape in schema.columns.values()] == [1]
        if not (table and is_table(x)):
            return Rows.of(x)
        return table_to_rows(x, self, learning=learning, fractions=not learning and self._has_fractions)

    @property
    def _has_fractions(self) -> bool:
        """Whether the only column that was fitted holds fractions: whole numbers are then read as such."""
        known: Rows | None = getattr(self._known_fit, "rows", None)
        return known is not None and all(column.is_floating_point() for column in known.columns.values())

    def _fitted(self) -> Fitted:
        if not self.__sklearn_is_fitted__():
            _recipe(self.source)
            raise NotFittedError(
                "This Embedding is not fitted yet: its source is a recipe. needed: a fit. do: call fit(X) first."
            )
        return self._known_fit

    def _channels(self, rows: Rows | None) -> tuple[Channel, ...]:
        """Those that ``fit`` found, or else those of ``rows``."""
        if hasattr(self, "channels_"):
            return self.channels_
        assert rows is not None
        return channels(self._fitted(), rows, self.sites)

    def _names(self, parts: Sequence[Channel]) -> list[str]:
        return [name for part in parts for name in part.names(self._fitted())]

    def _check_settings(self) -> None:
        if self.steps not in STEPS:
            raise SettingError(f"steps={self.steps!r}", "'pooled' or 'each'", "change steps.")
        if self.batch_rows < 1:
            raise SettingError(f"batch_rows={self.batch_rows}", "at least 1", "change batch_rows.")
        _ = self._taken  # which checks itself

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        """What a vector is, as ``Embedding(mean of z at the point of the globals)``."""
        sites = [self.sites] if isinstance(self.sites, str) else self.sites
        if sites is None and hasattr(self, "channels_"):
            sites = [part.site for part in self.channels_]
        steps = "" if self.steps == "pooled" else ", each step"
        source = type(getattr(self._known_fit, "model", self.source)).__name__
        return f"Embedding({self._taken.describe(sites)}{steps}; {source})"

    @property
    def _known_fit(self) -> Any:
        return getattr(self, "fit_", self.source)

    def _forget(self) -> None:
        for name in ("fit_", "schema_", "channels_"):
            vars(self).pop(name, None)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "fit_") or is_fit(self.source)

    def __sklearn_clone__(self) -> Embedding:
        """A twin that has not been fitted; the source, a value, is shared rather than copied with its data."""
        twin = type(self)(**self.get_params(deep=False))
        for name, value in vars(self).items():
            if name.startswith("_"):  # what was asked of it, as by set_output
                setattr(twin, name, deepcopy(value))
        return twin

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        assert tags.transformer_tags is not None
        tags.transformer_tags.preserves_dtype = []  # the precision is the model's
        tags.input_tags.allow_nan = True  # the model integrates missing entries out, or says why it cannot
        return tags


def _recipe(source: Any) -> Callable[[Rows], Any]:
    if not callable(source) or isinstance(source, type):
        checked(source)
    return source

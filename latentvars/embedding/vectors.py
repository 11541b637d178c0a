"""Vectors: one fixed vector for each row, with the ids of the rows and where the vectors come from."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from latentvars.embedding.export import files
from latentvars.embedding.export.format import Stored
from latentvars.errors import DataError, KindError, NameUnknownError, ShapeError, StorageError


@dataclass(frozen=True)
class Provenance:
    """Where vectors come from. Vectors of one :attr:`space` can be compared, others cannot.

    Attributes:
        source: what made them, for people: ``"mean of z at the point, GaussianMixture"``.
        model: hash of the model, "" where there is none.
        data: hash of the data that it learnt from, "" where there are none.
        fit: hash of what was learnt, "" where nothing was.
        aligned: of vectors that were brought here from another space: by which map, and from where; "" of others. No
            part of the space, which they now belong to.
    """

    source: str = "array"
    model: str = ""
    data: str = ""
    fit: str = ""
    aligned: str = ""

    @cached_property
    def space(self) -> str:
        """A hash of all but ``aligned``."""
        return hashlib.sha256("|".join([self.source, self.model, self.data, self.fit]).encode()).hexdigest()

    def __str__(self) -> str:
        return f"{self.source} ({self.space[:8]})" + (f", aligned: {self.aligned}" if self.aligned else "")


@dataclass(frozen=True, eq=False)
class Vectors:
    """One fixed vector for each row: what is searched, classified, clustered and stored.

    Attributes:
        values: ``[N, W]`` float32 or float64, finite; a copy that cannot be written to, as are all arrays here.
        ids: ``[N]`` text, each one once; positions by default.
        names: of the coordinates, W; ``"0"``, ... by default.
        std: ``[N, W]`` posterior standard deviations of the coordinates; None where they are not known.
        metadata: name → ``[N]`` what else is known of the rows. What is missing among text is None; None among numbers
            is NaN.
        provenance: where they come from.

    Raises:
        ShapeError: values that are no table, or parts of other lengths.
        DataError: ids that repeat, or values that are not finite.
    """

    values: np.ndarray = field(repr=False)
    ids: Any = field(default=None, repr=False)
    names: Sequence[str] = field(default=(), repr=False)
    std: np.ndarray | None = field(default=None, repr=False)
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)
    provenance: Provenance = Provenance()

    def __post_init__(self) -> None:
        values = _numbers(self.values, "values")
        if values.ndim != 2 or not values.shape[1]:
            raise ShapeError(f"vectors of shape {list(values.shape)}", "[rows, coordinates]", "pass a table.")
        size, width = values.shape
        ids = np.arange(size).astype(str) if self.ids is None else _text(self.ids).copy()
        names = tuple(map(str, self.names)) or tuple(map(str, range(width)))
        std = None if self.std is None else _numbers(self.std, "std")
        if not callable(getattr(self.metadata, "items", None)):
            raise KindError(
                given=f"metadata of type {type(self.metadata).__name__}",
                needed="a mapping, or a frame, from names to one value a vector",
                remedy='write metadata={"kind": kinds}',
            )
        metadata = {str(name): _column(column) for name, column in self.metadata.items()}
        if ids.shape != (size,):
            raise ShapeError(f"ids of shape {list(ids.shape)}", f"one for each of {size} vectors", "pass as many ids.")
        if len(names) != width:
            raise ShapeError(f"{len(names)} names", f"one for each of {width} coordinates", "pass as many names.")
        if std is not None and std.shape != values.shape:
            raise ShapeError(f"std of shape {list(std.shape)}", f"{list(values.shape)}", "pass one for each number.")
        if std is not None and bool((std < 0).any()):
            raise DataError("negative standard deviations", "numbers from 0", "pass standard deviations as std=.")
        for name, column in metadata.items():
            if column.shape != (size,):
                raise ShapeError(
                    f"metadata {name!r} of shape {list(column.shape)}", f"[{size}]", "pass one value for each vector."
                )
        _check_once(ids)
        for array in (values, ids, *metadata.values()) if std is None else (values, ids, std, *metadata.values()):
            array.flags.writeable = False
        for name, value in {"values": values, "ids": ids, "names": names, "std": std, "metadata": metadata}.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def width(self) -> int:
        """W."""
        return self.values.shape[1]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values, dtype=dtype, copy=copy)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.ids.tolist())}

    def positions(self, ids: Any) -> np.ndarray:
        """Where ids stand, ``[M]``.

        Raises:
            NameUnknownError: an id that is not among them.
        """
        wanted = np.atleast_1d(_text(ids)).tolist()
        unknown = [name for name in wanted if name not in self._places]
        if unknown:
            raise NameUnknownError(
                given=f"the id {unknown[0]!r}" + (f" and {len(unknown) - 1} more" if unknown[1:] else ""),
                needed=f"ids of these {len(self)} vectors, such as {self.ids[:3].tolist()}",
                remedy="look them up in .ids; ids are text",
            )
        return np.array([self._places[name] for name in wanted], dtype=np.int64)

    def __getitem__(self, ids: Any) -> np.ndarray:
        """The vector of an id ``[W]``, or of several ``[M, W]``."""
        found = self.values[self.positions(ids)]
        return found[0] if np.ndim(ids) == 0 else found

    def take(self, positions: Any) -> Vectors:
        """The vectors at positions, a slice or a boolean mask, with all that belongs to them.

        Raises:
            ShapeError: positions beyond the last, or a mask of another length.
        """
        try:
            self.ids[positions]
        except IndexError as error:
            raise ShapeError(
                f"positions that do not fit: {error}", f"positions among {len(self)} vectors", "correct them."
            ) from error
        return Vectors(
            self.values[positions],
            self.ids[positions],
            self.names,
            None if self.std is None else self.std[positions],
            {name: column[positions] for name, column in self.metadata.items()},
            self.provenance,
        )

    def check_comparable(self, other: Vectors) -> None:
        """Whether distances to other vectors mean anything.

        Raises:
            ShapeError: vectors of another width.
            DataError: vectors from elsewhere.
        """
        if other.width != self.width:
            raise ShapeError(
                given=f"vectors of {other.width} coordinates beside vectors of {self.width}",
                needed=f"{self.width} coordinates",
                remedy="embed both by the same fit",
            )
        if other.provenance.space != self.provenance.space:
            raise DataError(
                given=f"vectors from {other.provenance} beside vectors from {self.provenance}",
                needed="vectors of one fit, taken in one way",
                remedy="embed both by the same fit; lv.align_vectors brings those of a refit into the axes of the old",
            )

    def sample(self, draws: int = 1) -> NoReturn:
        """Vectors have no draws.

        Raises:
            KindError: always.
        """
        raise KindError(
            given=f"{draws} draws asked of vectors, each of which is one fixed vector",
            needed="a belief, which can be sampled",
            remedy="draw from the posterior: fit.latent(rows).sample(site, draws)",
        )

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write them into one file, whole or not at all; :func:`latentvars.load_vectors` reads it.

        Args:
            path: its suffix says how: ``.parquet``, ``.safetensors``, ``.npz`` and ``.h5ad`` keep everything; ``.vec``
                and ``.txt`` (word2vec's text) ids and numbers, ``.npy`` the numbers alone.
            overwrite: replace a file that stands there.

        Raises:
            StorageError: something is in the way, or the folder is missing.
            SettingError: another suffix.
            ImportError: a format whose library is not installed.
        """
        return files.write(self.stored, path, overwrite=overwrite)

    @property
    def stored(self) -> Stored:
        """The parts that are written."""
        return Stored(self.values, self.ids, self.names, self.std, self.metadata, asdict(self.provenance))

    @staticmethod
    def of(stored: Stored) -> Vectors:
        """Vectors of what a file holds."""
        try:
            where = Provenance(**stored.provenance)
        except TypeError as error:
            raise StorageError(
                given=f"vectors whose provenance has the fields {list(stored.provenance)}",
                needed=f"fields among {[one.name for one in fields(Provenance)]}",
                remedy="read them by the release that wrote them",
            ) from error
        return Vectors(stored.values, stored.ids, stored.names, stored.std, stored.metadata, where)

    def __str__(self) -> str:
        spread = "" if self.std is None else ", with standard deviations"
        return f"{len(self)} vectors of {self.width} coordinates{spread}: {self.provenance}"


def load_vectors(path: str | os.PathLike[str]) -> Vectors:
    """Vectors of a file, by its suffix; those of other origin too, with positions as ids where it has none.

    Raises:
        StorageError: there is no such file, or it holds no vectors.
        SettingError: an unknown suffix.
    """
    return Vectors.of(files.read(path))


def as_vectors(given: Any) -> Vectors:
    """Vectors as they are; an array or frame ``[N, W]`` as vectors with the names of its rows and columns.

    Raises:
        KindError: a belief, a fit or a transformer in the place of vectors.
    """
    if isinstance(given, Vectors):
        return given
    if callable(getattr(given, "sample", None)) and callable(getattr(given, "log_prob", None)):
        raise KindError(
            given=f"{type(given).__name__}, a belief for each row, where a fixed vector for each row is wanted",
            needed="vectors",
            remedy="take posterior means: lv.Embedding(fit).vectors(rows); beliefs are compared by lv.BeliefIndex",
        )
    if any(callable(getattr(given, name, None)) for name in ("latent", "fit_transform")):
        raise KindError(
            given=f"{type(given).__name__}, which makes vectors of rows, where vectors are wanted",
            needed="vectors",
            remedy="embed the rows: lv.Embedding(fit).vectors(rows)",
        )
    columns, index = getattr(given, "columns", None), getattr(given, "index", None)
    if columns is not None and index is not None and not callable(index):  # a pandas frame
        return Vectors(given.to_numpy(), list(map(str, index)), [str(name) for name in columns])
    return Vectors(as_array(given))


def as_array(given: Any) -> np.ndarray:
    """An array of what numpy can read.

    Raises:
        ShapeError: it cannot.
    """
    try:
        return np.asarray(given)
    except (ValueError, TypeError, RuntimeError) as error:  # of numpy and torch
        raise ShapeError(
            given=f"{type(given).__name__} that is no array: {error}",
            needed="numbers of one shape",
            remedy="pass rows of one length; tensors without gradients, in memory: tensor.detach().cpu()",
        ) from error


def _numbers(given: Any, what: str) -> np.ndarray:
    array = as_array(given)
    if array.dtype.kind not in "fiub":
        raise DataError(f"{what} of type {array.dtype}", "numbers", f"pass {what} as float32 or float64.")
    array = np.array(array, array.dtype if array.dtype in (np.float32, np.float64) else np.float64, order="C")
    bad = 0 if np.isfinite(array.sum()) else int((~np.isfinite(array)).any(-1).sum())
    if bad:
        raise DataError(f"{bad} rows of {what} that are not finite", "finite numbers", "leave these rows out.")
    return array


def _text(ids: Any) -> np.ndarray:
    array = np.asarray(ids)
    return array if array.dtype.kind == "U" else np.asarray([str(one) for one in np.ravel(array).tolist()], dtype=str)


def _column(column: Any) -> np.ndarray:
    """A copy; of Python's objects as text, text with None, or numbers with NaN, where they are no more than that."""
    array = np.array(column)
    if array.dtype.kind == "T":
        array = array.astype(object)
    if array.dtype.kind != "O" or array.ndim != 1:
        return array
    gaps = np.array([_is_missing(one) for one in array], dtype=bool)
    known = array[~gaps].tolist()
    if all(isinstance(one, str) for one in known):
        array[gaps] = None
        return array if gaps.any() else array.astype(str)
    if known and gaps.any() and all(isinstance(one, int | float | np.number) for one in known):
        return np.array([np.nan if gap else float(one) for one, gap in zip(array, gaps, strict=True)])
    return array


def _is_missing(one: Any) -> bool:
    """None, NaN, and pandas' NA and NaT."""
    return one is None or type(one).__name__ in ("NAType", "NaTType") or (isinstance(one, float) and one != one)


def _check_once(ids: np.ndarray) -> None:
    if len(set(ids.tolist())) == len(ids):
        return
    names, counts = np.unique(ids, return_counts=True)
    twice = names[counts > 1]
    raise DataError(
        given=f"ids that repeat: {str(twice[0])!r} stands {counts[counts > 1][0]} times"
        + (f", and {len(twice) - 1} more" if len(twice) > 1 else ""),
        needed="each id once",
        remedy="make the ids distinct, or leave out the copies",
    )

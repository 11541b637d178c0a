"""Vectors as AnnData, the container of single-cell analysis: ``obsm["X_latent"]``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

import numpy as np

from latentvars.embedding.export.format import (
    KEY,
    Format,
    Stored,
    damaged,
    described,
    description,
    missing_library,
    unwritable,
)

PLACE, SPREAD = "X_latent", "X_latent_std"


@final
class Annotated(Format):
    """``obs_names`` are the ids, ``obs`` the metadata, ``uns["latentvars"]`` names and provenance."""

    def write(self, vectors: Stored, path: Path) -> None:
        to_anndata(vectors).write_h5ad(path)

    def read(self, path: Path) -> Stored:
        try:
            found = library().read_h5ad(path)
        except (OSError, ValueError, KeyError) as error:
            raise damaged(path, str(error)) from error
        if PLACE not in found.obsm:
            raise damaged(path, f"there is no obsm[{PLACE!r}] among {list(found.obsm)}")
        return from_anndata(found, path)


def library() -> Any:
    try:
        import anndata
    except ImportError as error:
        raise missing_library("anndata", "anndata", ".h5ad") from error
    return anndata


def to_anndata(vectors: Stored) -> Any:
    """An AnnData without X."""
    import pandas

    columns = {name: _column(name, column) for name, column in vectors.metadata.items()}
    obs = pandas.DataFrame(columns, index=pandas.Index(vectors.ids.tolist(), dtype=object))
    places = {PLACE: np.array(vectors.values)}
    places |= {} if vectors.std is None else {SPREAD: np.array(vectors.std)}
    var = pandas.DataFrame(index=pandas.Index([], dtype=object))
    about = {KEY: description(vectors)}
    return library().AnnData(obs=obs, var=var, obsm=places, uns=about)


def _column(name: str, column: np.ndarray) -> Any:
    """Text as categories of Python's strings, which every release of anndata writes."""
    import pandas

    text = column.dtype.kind == "U" or all(one is None or isinstance(one, str) for one in column)
    if column.dtype.kind in "Mm" or (column.dtype.kind == "O" and not text):
        raise unwritable(name, column, ".h5ad")
    if not text:
        return column
    kinds = pandas.Index(sorted({one for one in column.tolist() if one is not None}), dtype=object)
    return pandas.Categorical(column.astype(object), categories=kinds)


def from_anndata(found: Any, path: Path = Path("AnnData")) -> Stored:
    """The vectors in ``obsm["X_latent"]``."""
    values = np.asarray(found.obsm[PLACE])
    text = found.uns.get(KEY)
    names, provenance = described(None if text is None else str(text), path)
    std = np.asarray(found.obsm[SPREAD]) if SPREAD in found.obsm else None
    metadata = {name: np.asarray(found.obs[name]) for name in found.obs}
    return Stored(values, list(map(str, found.obs_names)), names, std, metadata, provenance)

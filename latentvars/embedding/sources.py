"""Vectors out of what holds one for each row already: DataTrees, word vectors, AnnData, frames, arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from latentvars.embedding.export.annotated import PLACE, from_anndata
from latentvars.embedding.taking import Statistic
from latentvars.embedding.vectors import Provenance, Vectors, as_vectors
from latentvars.errors import DataError, KindError, NameUnknownError, SettingError

GROUPS = ("latent_draws", "posterior")
BLOCK = 1_024  # rows whose draws are in memory at a time


def vectors_of(
    source: Any,
    site: str | None = None,
    *,
    statistic: Statistic = "mean",
    categories: int | None = None,
) -> Vectors:
    """One fixed vector for each row of what holds them.

    Args:
        source: an ArviZ DataTree with draws of a local (of ``fit.to_datatree(latents="draws")``, or of any other
            program: a variable with the dimensions chain, draw, rows, coordinates); gensim's KeyedVectors; AnnData
            with ``obsm["X_latent"]``; a frame or array ``[N, W]``; vectors.
        site: of a DataTree: the variable.
        statistic: of a DataTree: of the draws of each row, ``"mean"`` or ``"median"``. Draws of categories (whole
            numbers) become their probabilities.
        categories: K of such a site; None: as many as were drawn.

    Returns:
        The vectors; of draws with their standard deviations, rows named by the coordinate of their dimension.

    Raises:
        KindError: a belief or something without vectors.
        NameUnknownError: a tree without draws of that site.
        DataError: draws that differ in their numbers (sequences).
    """
    if _is_tree(source):
        return _of_tree(source, site, statistic, categories)
    if hasattr(source, "index_to_key") and hasattr(source, "vectors"):
        values = np.asarray(source.vectors)
        where = Provenance(f"words of {type(source).__name__}", fit=_hash(values))
        return Vectors(values, list(source.index_to_key), provenance=where)
    if hasattr(source, "obsm") and hasattr(source, "obs_names"):
        if PLACE not in source.obsm:
            raise NameUnknownError(
                f"AnnData with obsm {list(source.obsm)}", f"obsm[{PLACE!r}]", "put the vectors there"
            )
        return Vectors.of(from_anndata(source))
    return as_vectors(source)


def _is_tree(source: Any) -> bool:
    return hasattr(source, "children") and hasattr(source, "groups")


def _of_tree(tree: Any, site: str | None, statistic: str, categories: int | None) -> Vectors:
    if statistic not in ("mean", "median"):
        raise SettingError(f"statistic={statistic!r} of draws", "'mean' or 'median'", "change statistic.")
    array = _draws(tree, site)
    row, *rest = [dim for dim in array.dims if dim not in ("chain", "draw")]
    array = array.transpose("chain", "draw", row, *rest)
    labels = array.dtype.kind in "iub"
    if labels and rest:
        raise KindError(
            given=f"draws of {array.name!r} with the dimensions {[row, *rest]}: paths of sequences",
            needed="one category for each row",
            remedy="embed by the fit: lv.Embedding(fit)",
        )
    if labels and statistic == "median":
        raise KindError(f"the median of the categories {array.name!r}", "numbers", "take their mean: probabilities")
    size = array.sizes[row]
    top = categories if categories is not None else 1 + int(array.max()) if labels else 0
    parts = [_summed_up(array.isel({row: slice(k, k + BLOCK)}), statistic, top) for k in range(0, size, BLOCK)]
    values, std = (np.concatenate(pair) for pair in zip(*parts, strict=True))
    ids = list(map(str, array.coords[row].to_numpy())) if row in array.coords else None
    draws = array.sizes["chain"] * array.sizes["draw"]
    where = Provenance(f"{statistic} of {array.name} over {draws} draws", fit=_hash(values))
    return Vectors(values, ids, _names(str(array.name), values.shape[1]), std, {}, where)


def _draws(tree: Any, site: str | None) -> Any:
    """The variable with draws of a local."""
    found: dict[str, Any] = {}
    for group in GROUPS:
        held: Mapping[str, Any] = tree[group].data_vars if group in tree.children else {}
        found |= {name: one for name, one in held.items() if name not in found and len(one.dims) > 2}
    if site is None and "latent_draws" in tree.children and len(tree["latent_draws"].data_vars) == 1:
        site = next(iter(tree["latent_draws"].data_vars))
    if site is None and len(found) == 1:
        site = next(iter(found))
    if site is None or site not in found:
        raise NameUnknownError(
            given=f"a tree with draws of {sorted(map(str, found))}, and site={site!r}",
            needed="the name of a local with the dimensions chain, draw, rows",
            remedy='pass site=; fit.to_datatree(latents="draws") has draws of the locals',
        )
    return found[site]


def _summed_up(array: Any, statistic: str, categories: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of some rows ``[N, W]`` and their deviations."""
    values = array.to_numpy()
    values = values.reshape(-1, values.shape[2], int(np.prod(values.shape[3:], dtype=int)))
    if categories:
        if values.max() >= categories or values.min() < 0:
            raise DataError(
                given=f"categories from {values.min()} to {values.max()}",
                needed=f"0 to {categories - 1}",
                remedy="raise categories=",
            )
        mean = np.stack([(values[..., 0] == k).mean(0) for k in range(categories)], -1)
        return mean, np.sqrt(mean * (1 - mean))
    middle = values.mean(0) if statistic == "mean" else np.median(values, 0)
    return middle, values.std(0)


def _names(site: str, width: int) -> list[str]:
    return [site] if width == 1 else [f"{site}{k}" for k in range(width)]


def _hash(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()

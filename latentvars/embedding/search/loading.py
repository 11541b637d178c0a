"""Reading the folders of saved indices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from latentvars.embedding.search.belief_index import BeliefIndex
from latentvars.embedding.search.belief_saving import BELIEFS, FAMILIES
from latentvars.embedding.search.faiss_engines import FaissEngine
from latentvars.embedding.search.index import Index
from latentvars.embedding.search.metrics import prepared
from latentvars.embedding.search.saving import ENGINES, INDEX, read_columns
from latentvars.embedding.vectors import Provenance, Vectors
from latentvars.errors import KindError, LatentVarsError, StorageError
from latentvars.storage import Kind, read_folder

Found = TypeVar("Found")


def load_index(path: str | Path) -> Index:
    """The index that :meth:`latentvars.Index.save` wrote: it finds what that one found.

    Args:
        path: the folder.

    Raises:
        StorageError: there is nothing, something else, a newer version, or files that are incomplete or altered.
        KindError: an index of FAISS, which is not installed.
    """
    return sensible(_restored, INDEX, path, "an index as index.save wrote it")


def load_belief_index(path: str | Path) -> BeliefIndex:
    """The index that :meth:`latentvars.BeliefIndex.save` wrote: it finds what that one found.

    Args:
        path: the folder.

    Raises:
        StorageError: there is nothing, something else, a newer version, or files that are incomplete or altered.
    """
    return sensible(_restored_beliefs, BELIEFS, path, "an index as index.save wrote it")


def sensible(restored: Callable[..., Found], kind: Kind, path: str | Path, needed: str) -> Found:
    """What a folder of a kind holds; StorageError where it makes no sense."""
    body, tensors = read_folder(kind, Path(path))
    try:
        return restored(body, tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, KindError):
            raise
        said = error.given if isinstance(error, LatentVarsError) else f"{type(error).__name__}: {error}"
        raise StorageError(f"{path} makes no sense: {said}", needed, "build it again") from error


def _restored(body: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Index:
    ids, metadata = read_columns(tensors, body["columns"])
    vectors = Vectors(
        tensors["values"].numpy(),
        ids,
        body["names"],
        tensors["std"].numpy() if "std" in tensors else None,
        metadata,
        Provenance(**body["provenance"]),
    )
    engine = ENGINES[body["engine"]["name"]](**body["engine"]["settings"])
    rows = prepared(vectors.values, body["metric"], vectors.ids)
    if isinstance(engine, FaissEngine):
        built = engine.restored(rows, body["metric"], tensors["faiss"].numpy(), tensors["slots"].numpy())
    else:
        built = engine.build(rows, body["metric"])
    return Index(vectors, body["metric"], engine, built)


def _restored_beliefs(body: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> BeliefIndex:
    ids, metadata = read_columns(tensors, body["columns"])
    arrays = {name: tensors[f"beliefs.{name}"].numpy() for name in body["arrays"]}
    beliefs = FAMILIES[body["family"]](**arrays, **body["flags"])
    where = Provenance(**body["provenance"])
    return BeliefIndex(beliefs, body["site"], ids, body["draws"], body["seed"], metadata, where)

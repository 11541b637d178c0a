"""An index of beliefs as a folder: JSON and safetensors, whole or not at all, nothing pickled."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from latentvars.embedding.search.beliefs import Beliefs, CategoricalBeliefs, DrawnBeliefs, NormalBeliefs
from latentvars.embedding.search.saving import written_columns
from latentvars.embedding.vectors import Vectors
from latentvars.storage import Kind, write_folder

BELIEFS = Kind("belief index", 1)
FAMILIES: dict[str, type[Any]] = {kind.__name__: kind for kind in (NormalBeliefs, CategoricalBeliefs, DrawnBeliefs)}


class SavableBeliefs(Protocol):
    """What is written: :class:`latentvars.BeliefIndex`."""

    @property
    def known(self) -> Beliefs: ...
    @property
    def rows(self) -> Vectors: ...
    @property
    def site(self) -> str | None: ...
    @property
    def draws(self) -> int: ...
    @property
    def seed(self) -> int: ...


def save_beliefs(index: SavableBeliefs, path: Path, *, overwrite: bool) -> Path:
    """Write an index; see :meth:`latentvars.BeliefIndex.save`."""
    known: Any = index.known
    parts = {name: getattr(known, name) for name in known.__dataclass_fields__}
    arrays = {name: part for name, part in parts.items() if isinstance(part, np.ndarray)}
    tensors, kinds = written_columns(index.rows)
    tensors |= {f"beliefs.{name}": torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    body = {
        "family": type(known).__name__,
        "arrays": list(arrays),
        "flags": {name: part for name, part in parts.items() if isinstance(part, bool)},
        "site": index.site,
        "draws": index.draws,
        "seed": index.seed,
        "columns": kinds,
        "provenance": asdict(index.rows.provenance),
    }
    return write_folder(BELIEFS, path, body, tensors, overwrite=overwrite)

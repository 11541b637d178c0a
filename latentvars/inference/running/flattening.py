"""What adds up, as one vector: trees of tensors and numbers, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

HERE = {"here": True}  # metadata of fields that stay in their process
Layout = tuple[tuple[int, ...], ...]


def flatten(tree: Any) -> tuple[Tensor, Layout]:
    """All numbers of a tree of dataclasses, mappings, tuples, tensors and numbers, ``[P]`` float64, and their shapes.

    Fields of dataclasses with the metadata :data:`HERE`, truth values, text and None are left out.
    """
    parts = list(_numbers(tree))
    flat = [part.detach().reshape(-1).to("cpu", torch.float64) for part in parts]
    vector = torch.cat(flat) if flat else torch.zeros(0, dtype=torch.float64)
    return vector, tuple(tuple(part.shape) for part in parts)


def rebuild(tree: Any, vector: Tensor) -> Any:
    """A tree like ``tree`` with the numbers of a vector that is laid out as :func:`flatten` does it."""
    return _rebuilt(tree, _Reader(vector))


def length(layout: Layout) -> int:
    """Numbers in a vector of that layout."""
    return sum(torch.Size(shape).numel() for shape in layout)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _fields(value: Any) -> list[str]:
    return [one.name for one in dataclasses.fields(value) if not one.metadata.get("here")]


def _numbers(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif _is_number(tree):
        yield torch.tensor(float(tree), dtype=torch.float64)
    elif isinstance(tree, Mapping):
        for name in sorted(tree):
            yield from _numbers(tree[name])
    elif isinstance(tree, tuple | list):
        for value in tree:
            yield from _numbers(value)
    elif dataclasses.is_dataclass(tree):
        for name in _fields(tree):
            yield from _numbers(getattr(tree, name))


class _Reader:
    """Takes numbers off a vector, from its beginning."""

    def __init__(self, vector: Tensor) -> None:
        self.vector, self.at = vector, 0

    def take(self, shape: torch.Size) -> Tensor:
        self.at += shape.numel()
        return self.vector[self.at - shape.numel() : self.at].reshape(shape).clone()


def _rebuilt(tree: Any, reader: _Reader) -> Any:
    if isinstance(tree, Tensor):
        found = reader.take(tree.shape)
        return (
            found.to(tree.device, tree.dtype) if tree.is_floating_point() else found.round().to(tree.device, tree.dtype)
        )
    if _is_number(tree):
        number = float(reader.take(torch.Size(())))
        return round(number) if isinstance(tree, int) else number
    if isinstance(tree, Mapping):
        found = {name: _rebuilt(tree[name], reader) for name in sorted(tree)}
        return {name: found[name] for name in tree}
    if isinstance(tree, tuple | list):
        return type(tree)(_rebuilt(value, reader) for value in tree)
    if dataclasses.is_dataclass(tree):
        changed = {name: _rebuilt(getattr(tree, name), reader) for name in _fields(tree)}
        return dataclasses.replace(tree, **changed)  # type: ignore[type-var]
    return tree

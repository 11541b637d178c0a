"""Texts as vectors, by a frozen encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from torch import nn

from latentvars.embedding.vectors import Provenance, Vectors
from latentvars.errors import DataError, KindError, ShapeError
from latentvars.storage import digest
from latentvars.threads import one_thread


class TextEmbedding(TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):
    """One fixed vector for each text, by a frozen encoder such as a SentenceTransformer.

    The vector of a text depends on the text alone, to the bit: texts are encoded one at a time on one thread, each
    distinct text once. In batches, as encoders do by default, the padding beside a text changes its last digits; that
    is some five times faster.

    Args:
        encoder: has ``encode(texts) -> [N, W]``, or is such a function. A torch module is put into evaluation mode.
        name: of the encoder, for the provenance; its class by default.
    """

    def __init__(self, encoder: Any, name: str = "") -> None:
        self.encoder = encoder
        self.name = name

    def fit(self, X: Any = None, y: Any = None) -> TextEmbedding:
        """Nothing is learnt; the encoder is looked at.

        Raises:
            KindError: something that does not encode.
        """
        _encoding(self.encoder)
        return self

    def transform(self, X: Sequence[str]) -> np.ndarray:
        """Vectors of the texts ``[N, W]``.

        Raises:
            DataError: no texts, or something else among them.
            ShapeError: an encoder that does not give one vector for a text.
        """
        encode, texts = _encoding(self.encoder), _texts(X)
        if isinstance(self.encoder, nn.Module):
            self.encoder.eval()
        with one_thread(), torch.no_grad():
            found = {text: _one(encode, text) for text in dict.fromkeys(texts)}
        widths = {len(vector) for vector in found.values()}
        if len(widths) > 1:
            raise ShapeError(f"vectors of widths {sorted(widths)}", "one width", "pool over the words of a text.")
        return np.stack([found[text] for text in texts])

    def vectors(self, X: Sequence[str], ids: Any = None, metadata: Any = None) -> Vectors:
        """The vectors with ids and where they come from; metadata ``text`` holds the texts unless it is given."""
        texts = _texts(X)
        kept = {"text": texts} if metadata is None else metadata
        return Vectors(self.transform(texts), ids, (), None, kept, self.provenance)

    @property
    def provenance(self) -> Provenance:
        """Name of the encoder, and a hash of its weights where it has some."""
        name = self.name or type(self.encoder).__name__
        return Provenance(f"text by {name}", fit=_weights(self.encoder))

    def __sklearn_clone__(self) -> TextEmbedding:
        """A twin with the same encoder, which is not copied."""
        return TextEmbedding(self.encoder, self.name)

    def __sklearn_is_fitted__(self) -> bool:
        return True


def _encoding(encoder: Any) -> Callable[[list[str]], Any]:
    found = getattr(encoder, "encode", encoder if callable(encoder) else None)
    if not callable(found) or isinstance(encoder, type):
        raise KindError(
            given=f"{type(encoder).__name__} in the place of an encoder",
            needed="an object with encode(texts), or a function of texts",
            remedy="pass a SentenceTransformer, say",
        )
    return found


def _texts(given: Any) -> list[str]:
    texts = [given] if isinstance(given, str) else list(given)
    wrong = [text for text in texts if not isinstance(text, str)]
    if wrong or not texts:
        raise DataError(
            given=f"{type(wrong[0]).__name__} among the texts" if wrong else "no texts",
            needed="a list of str",
            remedy="leave out what is missing, and pass at least one text",
        )
    return [str(text) for text in texts]


def _one(encode: Callable[[list[str]], Any], text: str) -> np.ndarray:
    found = encode([text])
    array = found.detach().cpu().numpy() if isinstance(found, torch.Tensor) else np.asarray(found)
    if array.ndim != 2 or len(array) != 1:
        raise ShapeError(
            f"an encoder that gives shape {list(array.shape)} for one text", "[1, W]", "pool over the words of a text."
        )
    return array[0]


def _weights(encoder: Any) -> str:
    if not isinstance(encoder, nn.Module):
        return ""
    return digest(encoder.state_dict())

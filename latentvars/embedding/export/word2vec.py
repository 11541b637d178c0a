"""Vectors as the text format of word2vec, which gensim, spaCy and others read."""

from __future__ import annotations

from pathlib import Path
from typing import final

import numpy as np

from latentvars.embedding.export.format import Format, Stored, damaged, described
from latentvars.errors import DataError


@final
class Word2Vec(Format):
    """A line ``N W``, then a line ``id v1 ... vW`` for each vector. No deviations, metadata or provenance."""

    def write(self, vectors: Stored, path: Path) -> None:
        spaced = [name for name in vectors.ids.tolist() if not name or name.split() != [name]]
        if spaced:
            raise DataError(
                given=f"the id {spaced[0]!r}, with a space in it or empty",
                needed="ids without spaces, which part the numbers of a line",
                remedy="rename the ids, or save as .parquet",
            )
        with path.open("w", encoding="utf-8") as file:
            file.write(f"{len(vectors.values)} {vectors.values.shape[1]}\n")
            for name, vector in zip(vectors.ids.tolist(), vectors.values, strict=True):
                file.write(f"{name} {' '.join(map(str, vector.tolist()))}\n")

    def read(self, path: Path) -> Stored:
        try:
            with path.open(encoding="utf-8") as file:
                size, width = map(int, file.readline().split())
                ids, values = [], np.empty((size, width))
                for row in range(size):
                    name, *numbers = file.readline().split()
                    if len(numbers) != width:  # one number would be taken for all of them
                        raise ValueError(f"{len(numbers)} numbers in line {row + 2}, where there should be {width}")
                    ids.append(name)
                    values[row] = [float(number) for number in numbers]
        except ValueError as error:
            raise damaged(path, f"not word2vec's text: {error}") from error
        return Stored(values, ids, provenance=described(None, path)[1])

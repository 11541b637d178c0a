"""A latent space of handwritten digits: ways through it, draws of it, and a class of digits that it has never seen.

Pictures are written to demo-output/latent_space.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.svm import OneClassSVM
from torch import Tensor

import latentvars as lv

PIXELS = (8, 8)
LEFT_OUT = 0
INK = (0.0, 1.0)


def main(folder: Path = Path("demo-output/latent_space"), passes: int = 80) -> None:
    digits = lv.datasets.digits()
    assert digits.target is not None
    x, target = digits.x / 16, digits.target
    others = np.random.default_rng(0).permutation(np.flatnonzero(target != LEFT_OUT))
    train, reference, new = np.split(others, [1_000, 1_300])
    model = lv.models.VAE.mlp(64, 10, hidden=(128,), likelihood="gaussian")
    fit = lv.fit(model, x[train], lv.SVI(passes=passes, batch_size=100), seed=0, progress=False)
    space = lv.LatentSpace(fit)
    print(space, fit, sep="\n")
    pictures(space, x[train], target[train], folder)
    anomalies(space, x, train, reference, new, np.flatnonzero(target == LEFT_OUT))


def pictures(space: lv.LatentSpace, x: np.ndarray, target: np.ndarray, folder: Path) -> None:
    """Interpolations, traversals, a walk along an attribute, and draws."""
    folder.mkdir(parents=True, exist_ok=True)
    z = space.locate(x)
    one = {digit: z[int(np.flatnonzero(target == digit)[2])] for digit in range(1, 10)}
    ways = [space.interpolate(one[a], one[b], 9, by=way) for a, b in ((3, 8), (4, 9)) for way in ("line", "geodesic")]
    for way in ways:
        print(way)
    lv.plots.strip(ways, PIXELS, limits=INK).savefig(folder / "interpolation.png")
    lv.plots.band(ways[1], [10, 20, 30, 36], names=[f"pixel {k}" for k in (10, 20, 30, 36)]).savefig(
        folder / "band.png"
    )
    axes = [space.traverse(k, one[3]) for k in range(6)]
    lv.plots.strip(axes, PIXELS, names=[f"z[{k}]" for k in range(6)], limits=INK).savefig(folder / "traversal.png")
    bend = space.directions.attribute(target == 6, x)
    walk = space.walk(bend, one[4], amounts=np.linspace(0, 1.2, 9))
    lv.plots.strip(walk, PIXELS, names=["towards 6"], limits=INK).savefig(folder / "attribute.png")
    arithmetic(space, z, target, folder)
    print(space.measures.units(), space.measures.smoothness(), sep="\n")


def arithmetic(space: lv.LatentSpace, z: Tensor, target: np.ndarray, folder: Path) -> None:
    """a − b + c with a and b means of digits and c one that somebody wrote: 8 − 3 closes a three."""
    mean = {digit: z[target == digit].mean(0) for digit in range(1, 10)}
    one = {digit: z[int(np.flatnonzero(target == digit)[5])] for digit in range(1, 10)}
    sums = ((8, 3, 3), (9, 4, 4), (6, 5, 5), (8, 3, 5))
    points = [
        torch.stack([mean[a], mean[b], one[c], space.arithmetic(torch.stack([mean[a], one[c]]), mean[b])])
        for a, b, c in sums
    ]
    names = [f"{a} − {b} + {c}" for a, b, c in sums]
    lines = [space.decode(each) for each in points]
    lv.plots.strip(lines, PIXELS, names=names, columns=("a", "− b", "+ c", "="), limits=INK).savefig(
        folder / "arithmetic.png"
    )
    likest = torch.cdist(torch.stack([each[-1] for each in points]), torch.stack(list(mean.values()))).argmin(1) + 1
    print("; ".join(f"{name} is nearest to {digit}" for name, digit in zip(names, likest.tolist(), strict=True)))


def anomalies(space: lv.LatentSpace, x: np.ndarray, *groups: Sequence[int] | np.ndarray) -> None:
    """A table of areas under the ROC curve, and how many p-values of new normal rows are at most 5 %."""
    train, reference, new, odd = groups
    rows = np.concatenate([x[new], x[odd]])
    truth = np.arange(len(rows)) >= len(new)
    scores = ("likelihood", "typicality", "predictive")
    found = space.anomaly(rows, reference=x[reference], scores=scores, draws=30)
    pca = PCA(10).fit(x[train])
    table = {f"latentvars, {name}": found.scores[name].numpy() for name in scores} | {
        "IsolationForest": -IsolationForest(random_state=0).fit(x[train]).score_samples(rows),
        "OneClassSVM": -OneClassSVM(gamma="scale").fit(x[train]).score_samples(rows),
        "PCA reconstruction": np.square(rows - pca.inverse_transform(pca.transform(rows))).sum(1),
    }
    print(f"\n{LEFT_OUT}s among other digits, none of which was learnt from: ROC-AUC")
    for name, score in table.items():
        print(f"  {name:26s}{roc_auc_score(truth, score):.3f}")
    for name in scores:
        p = found.p_values[name].numpy()
        normal, strange = (p[~truth] <= 0.05).mean(), (p[truth] <= 0.05).mean()
        print(f"  p ≤ .05 by {name}: {normal:.1%} of new digits, {strange:.0%} of {LEFT_OUT}s")


if __name__ == "__main__":
    main()

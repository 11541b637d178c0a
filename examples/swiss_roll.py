"""The Swiss roll: a nonlinear latent model that recovers the sheet, and what decides whether it does.

    python examples/swiss_roll.py

Rows in three dimensions lie near a rolled sheet of two, whose coordinates are known: the angle t and the height. A VAE
from random weights ends in one of many optima that cut or fold the sheet, or that ignore it. The same VAE, taught the
coordinates of Isomap before it is trained (``model.taught``), keeps the sheet whole, and then gives what Isomap does
not: a likelihood, new rows, and a belief about each. Prints a table, writes demo-output/swiss_roll.png.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import torch
from scipy.spatial import procrustes
from sklearn.datasets import make_swiss_roll
from sklearn.decomposition import PCA
from sklearn.manifold import Isomap, trustworthiness

import latentvars as lv

matplotlib.use("Agg")
ROWS, NEIGHBOURS = 1_500, 10
OUT = Path("demo-output")


def main() -> None:
    x, angle = make_swiss_roll(ROWS, noise=0.05, random_state=0)
    truth = np.column_stack([angle, x[:, 1]])
    truth = (truth - truth.mean(0)) / truth.std(0)
    sheet = Isomap(n_neighbors=NEIGHBOURS, n_components=2).fit_transform(x)
    sheet /= sheet.std(0)
    model = lv.models.VAE.mlp(3, 2, hidden=(128, 128), likelihood="gaussian")
    fits = {
        "VAE from random weights": lv.fit(model, x, training(), progress=False),
        "VAE taught by Isomap": lv.fit(model.taught(x, sheet), x, training(), progress=False),
    }
    found = {"PCA": PCA(2, whiten=True).fit_transform(x), "Isomap": sheet}
    found |= {name: lv.Embedding(fit).transform(x) for name, fit in fits.items()}
    print(f"{'':26}Procrustes correlation   trustworthiness   nats per row")
    for name, z in found.items():
        score = f"{fits[name].history[-1]:14.3f}" if name in fits else ""
        print(f"{name:26}{correlation(truth, z):22.4f}{trustworthiness(x, z, n_neighbors=NEIGHBOURS):18.4f}{score}")
    OUT.mkdir(exist_ok=True)
    picture(found, angle).savefig(OUT / "swiss_roll.png", dpi=110, bbox_inches="tight")
    print(f"written: {OUT / 'swiss_roll.png'}")


def training() -> lv.SVI:
    return lv.SVI(passes=150, batch_size=256, optimizer=adam, stop=lv.Never())


def adam(weights: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(weights, lr=1e-3)


def correlation(truth: np.ndarray, z: np.ndarray) -> float:
    """After the best shift, turn and scale: √(1 − m²)."""
    return float(np.sqrt(1 - procrustes(truth, z)[2]))


def picture(found: dict[str, np.ndarray], angle: np.ndarray):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.2), layout="constrained")
    for axis, (name, z) in zip(figure.subplots(1, len(found)), found.items(), strict=True):
        axis.scatter(*z.T, c=angle, s=4, cmap="viridis", linewidths=0)
        axis.set(title=name, xticks=[], yticks=[])
    figure.suptitle("The Swiss roll in two dimensions; colour: the angle t", fontsize=11)
    return figure


if __name__ == "__main__":
    main()

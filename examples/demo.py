"""The main job: three real data sets are fitted, and published numbers stand beside ours.

    python examples/demo.py [folder]

Prints a report; pictures and one DataTree file of all fits go into the folder, ``demo-output`` by default.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import train_test_split
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import latentvars as lv

# 2 log L - df log n (larger is better), as mclust 5 prints it for full covariances; K = 4 is not quoted
IRIS_BIC = {1: -829.9782, 2: -574.0178, 3: -580.8396}
# Zucchini & MacDonald (2009), section 3.2 and table 6.1 to 6.3, stationary initial law
EARTHQUAKES_LL = {1: -391.9189, 2: -342.3183, 3: -329.4603}
EARTHQUAKES_AIC = {2: 692.6365, 3: 676.9206}
EARTHQUAKES_BIC = {2: 703.3278, 3: 700.976}
EARTHQUAKES_RATES = {2: (15.472, 26.125), 3: (13.146, 19.721, 29.714)}
WIDTH, NEIGHBOURS, PASSES, BATCH = 8, 5, 100, 128

Line = tuple[str, str, str]


@dataclass(frozen=True)
class Job:
    """What one data set gives: lines of the report, notes below them, and the tree of the fit that is kept."""

    title: str
    columns: Line
    lines: list[Line]
    notes: list[str]
    tree: xr.DataTree


def iris(folder: Path) -> Job:
    """A Gaussian mixture with full covariances; the number of components by BIC."""
    data = lv.datasets.iris()
    algorithm = lv.EM(restarts=20, stop=lv.Tolerance(1e-7))
    fits = {k: lv.fit(lv.models.GaussianMixture(k), data.frame, algorithm, progress=False) for k in (1, 2, 3, 4)}
    chosen = min(fits, key=lambda k: fits[k].bic)
    lines = [(f"BIC, K = {k}", number(IRIS_BIC.get(k)), number(-fit.bic)) for k, fit in fits.items()]
    lines.append(("K with the best BIC", "2", str(chosen)))
    rand = {k: adjusted_rand_score(data.target, fits[k].latent().mode().numpy()) for k in (2, 3)}
    found = ", ".join(str(fit.optima.replicated) for fit in fits.values() if fit.optima)
    notes = [
        "BIC in mclust's sign: 2 log L - df log n, larger is better",
        f"starts of {algorithm.restarts} that reached the best optimum, K = 1 to 4: {found}",
        f"adjusted Rand index with the species, which no fit saw: {rand[2]:.3f} (K = 2), {rand[3]:.3f} (K = 3)",
    ]
    lv.plots.components(fits[chosen], features=(2, 3)).savefig(folder / "iris-components.png")
    lv.plots.components(fits[3], features=(0, 1)).savefig(folder / "iris-three-components.png")
    columns = ("quantity", "published", "ours")
    return Job("iris: Gaussian mixture by EM", columns, lines, notes, fits[chosen].to_datatree())


def earthquakes(folder: Path) -> Job:
    """Poisson hidden Markov models whose initial law is the stationary one."""
    data = lv.datasets.earthquakes()
    algorithm = lv.EM(restarts=3, stop=lv.Tolerance(1e-6), accelerate=True)
    fits = {}
    for m in (1, 2, 3):
        model = lv.models.HiddenMarkov(m, lv.emissions.Poisson(1), initial="stationary")
        fits[m] = lv.fit(model, data.x, algorithm, progress=False)
    lines: list[Line] = []
    for m, fit in fits.items():
        lines.append((f"log-likelihood, m = {m}", number(EARTHQUAKES_LL[m]), number(fit.log_likelihood)))
        if m > 1:
            rates = np.sort(fit.point["rate"].flatten().numpy())
            lines.append((f"AIC, m = {m}", number(EARTHQUAKES_AIC[m]), number(fit.aic)))
            lines.append((f"BIC, m = {m}", number(EARTHQUAKES_BIC[m]), number(fit.bic)))
            lines.append((f"rates, m = {m}", numbers(EARTHQUAKES_RATES[m]), numbers(rates)))
    chosen = min(fits, key=lambda m: fits[m].bic)
    lines.append(("m with the best BIC", "3", str(chosen)))
    path = fits[3].latent().path()[0].numpy()
    high = np.array(data.names)[path == int(fits[3].point["rate"].argmax())]
    notes = [f"m = 3: {fits[3].optima}; years of the highest rate: {spans(high)}"]
    axes = ("year", "earthquakes of magnitude 7 and above")
    lv.plots.states(fits[3], data.names, labels=axes).savefig(folder / "earthquakes-states.png")
    columns = ("quantity", "published", "ours")
    return Job("earthquakes: Poisson hidden Markov model by EM", columns, lines, notes, fits[3].to_datatree())


def digits(folder: Path) -> Job:
    """A variational autoencoder; its posterior means as an embedding, beside PCA of the same width."""
    data = lv.datasets.digits()
    parts = train_test_split(data.x / 16, data.target, test_size=0.3, random_state=0, stratify=data.target)
    x, x_test, y, y_test = map(np.asarray, parts)
    fit = fit_vae(x)
    embedding, pca = lv.Embedding(fit), PCA(WIDTH, random_state=0).fit(x)
    vectors, vectors_test = embedding.transform(x), embedding.transform(x_test)
    ours = readouts(vectors, y, vectors_test, y_test)
    theirs = readouts(pca.transform(x), y, pca.transform(x_test), y_test)
    lines = [(name, f"{theirs[name]:.4f}", f"{value:.4f}") for name, value in ours.items()]
    bound = float(fit.score_rows(x_test).mean())
    notes = [
        f"{len(x_test)} held-out digits, {len(x)} to learn from, whose labels the embeddings never saw",
        f"ELBO of held-out digits {bound:.2f} nats per row, of those fitted {fit.log_likelihood / len(x):.2f}",
    ]
    queries = np.array([np.flatnonzero(y_test == digit)[0] for digit in range(10)])
    nearest = NearestNeighbors(n_neighbors=10).fit(vectors).kneighbors(vectors_test[queries], return_distance=False)
    images, labels = np.concatenate([x, x_test]), np.concatenate([y, y_test])
    picture = lv.plots.neighbours(images, len(x) + queries, nearest, labels=labels)
    picture.savefig(folder / "digits-neighbours.png")
    lv.plots.scatter(vectors_test, y_test).savefig(folder / "digits-embedding.png")
    title = f"digits: variational autoencoder by SVI, {WIDTH} latents"
    columns = ("quantity", f"PCA, {WIDTH} wide", "ours")
    return Job(title, columns, lines, notes, fit.to_datatree(draws=10, predictive=10))


def fit_vae(x: np.ndarray) -> lv.Fit:
    """KL warm-up over all passes keeps every latent in use."""
    updates = PASSES * -(-len(x) // BATCH)
    algorithm = lv.SVI(
        passes=PASSES,
        batch_size=BATCH,
        optimizer=functools.partial(torch.optim.Adam, lr=3e-3),
        schedule=functools.partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=updates),
        kl_warmup=PASSES,
        stop=lv.Never(),
    )
    return lv.fit(lv.models.VAE.mlp(x.shape[1], WIDTH, hidden=(256,), likelihood="bernoulli"), x, algorithm)


def readouts(train: np.ndarray, labels: np.ndarray, test: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """What an embedding is good for: retrieval by distance, and a linear classifier on top of it."""
    near = labels[NearestNeighbors(n_neighbors=10).fit(train).kneighbors(test, return_distance=False)]
    votes = np.array([np.bincount(row[:NEIGHBOURS], minlength=10).argmax() for row in near])
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2_000)).fit(train, labels)
    return {
        f"{NEIGHBOURS}-nearest-neighbour accuracy": float((votes == truth).mean()),
        "10 nearest of the same digit": float((near == truth[:, None]).mean()),
        "linear probe accuracy": float(probe.score(test, truth)),
    }


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def numbers(values: np.ndarray | tuple[float, ...]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def spans(years: np.ndarray) -> str:
    """Consecutive years as ranges: 1905-1910, 1942-1950."""
    parts = np.split(years, np.flatnonzero(np.diff(years) > 1) + 1)
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def report(job: Job, seconds: float) -> str:
    """The job as aligned text."""
    table = [job.columns, *job.lines]
    widths = [max(len(line[k]) for line in table) for k in range(3)]
    rows = [f"  {a:<{widths[0]}}   {b:>{widths[1]}}   {c:>{widths[2]}}" for a, b, c in table]
    return "\n".join([f"{job.title} ({seconds:.1f} s)", *rows, *(f"  {note}" for note in job.notes), ""])


def write(trees: Mapping[str, xr.DataTree], path: Path) -> None:
    """One file; each fit is a group of it, as ``xarray.open_datatree(path)["earthquakes"]``."""
    xr.DataTree(children=dict(trees)).to_netcdf(path, engine="h5netcdf")


def main(folder: Path) -> None:
    # the tensors are small: threads cost more than they give
    torch.set_num_threads(1)
    began = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    trees = {}
    for name, work in (("iris", iris), ("earthquakes", earthquakes), ("digits", digits)):
        start = time.perf_counter()
        job = work(folder)
        trees[name] = job.tree
        print(report(job, time.perf_counter() - start), flush=True)
    write(trees, folder / "fits.nc")
    names = ", ".join(sorted(path.name for path in folder.iterdir()))
    print(f"written to {folder}/: {names}")
    print(f"{time.perf_counter() - began:.0f} s in all")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo-output"))

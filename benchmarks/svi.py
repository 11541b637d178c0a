"""Stochastic variational inference beside Pyro's and beside a hand-written loop in torch; the density for samplers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from harness import Call, Case, Line, Outcome, Settings, Task, compared

RESTARTS = 20
COMPONENTS = 5
RATE, NETWORK_RATE = 0.01, 1e-3
BATCH = 256
SCHOOLS = {
    "y": np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]),
    "sigma": np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]),
}


@dataclass(frozen=True)
class Data:
    """Columns by name, a point of the globals, and sizes of networks ``(features, hidden, latents)``."""

    columns: dict[str, np.ndarray]
    point: dict[str, np.ndarray]
    sizes: tuple[int, int, int] = (0, 0, 0)


def lines(settings: Settings) -> Iterator[Line]:
    return compared("svi", cases(settings.quick), settings)


def cases(quick: bool) -> list[Case]:
    rounds = 1 if quick else 5
    steps = (50, 350) if quick else (200, 2_200)
    starts = (50, 150) if quick else (50, 450)
    mixture = (
        Task("SVI step", "Pyro, TraceEnum_ELBO", our_svi(mixture_model), their_svi(mixture_model), 5, passes=steps),
        Task(
            f"step of {RESTARTS} starts",
            f"Pyro, one run × {RESTARTS}",
            our_svi(mixture_model, RESTARTS),
            their_svi(mixture_model),
            20,
            passes=starts,
            copies=RESTARTS,
        ),
    )
    sides = our_svi(logistic_model), their_svi(logistic_model)
    logistic = (Task("SVI step", "Pyro, Trace_ELBO", *sides, 4, passes=steps),)
    calls = (100, 600) if quick else (100, 2_100)
    gradient = (
        Task("gradient, compiled", "Pyro, potential_fn", our_gradient, their_gradient, passes=calls, limit=30e-6),
    )
    found = [
        Case("mixture, explicit z, N=1,000, K=5, D=2", clusters, functools.partial(clusters, 50), mixture, rounds),
        Case("logistic regression, N=2,000, D=8", regression, functools.partial(regression, 50), logistic, rounds),
        Case("eight schools", schools, schools, gradient, rounds),
    ]
    large = (60_000, (784, 400, 20), 0.75, 9)
    for rows, sizes, reach, last in ((28_752, (64, 128, 8), 0.6, 23), large):
        rows = min(rows, 6_000) if quick else rows
        name = f"VAE {'-'.join(map(str, sizes))}, N={rows:,}, batch {BATCH}"
        # the floor of time: 0.85 of the loop's
        tasks = tuple(
            Task(what, "torch loop, Adam", ours, their_vae, 1 / 0.85, 1 / reach, (3, last), tolerance=0.01)
            for what, ours in (("epoch", our_vae()), ("epoch, compiled", our_vae(compile=True)))
        )
        data, tiny = (functools.partial(pictures, n, sizes) for n in (rows, 600))
        found.append(Case(name, data, tiny, tasks[:1] if quick else tasks, 2 if quick else 5))
    return found


def clusters(rows: int = 1_000) -> Data:
    noise = np.random.default_rng(0)
    centres = noise.normal(0, 3.5, (COMPONENTS, 2))
    x = noise.normal(size=(rows, 2)) + centres[noise.integers(COMPONENTS, size=rows)]
    point = {
        "weights": noise.dirichlet(np.full(COMPONENTS, 20.0)),
        "loc": centres,
        "scale": np.full((COMPONENTS, 2), 1.2),
    }
    return Data({"x": x}, point)


def regression(rows: int = 2_000) -> Data:
    noise = np.random.default_rng(1)
    x, slopes = noise.normal(size=(rows, 8)), noise.normal(size=8)
    y = (noise.random(rows) < 1 / (1 + np.exp(-x @ slopes))).astype(float)
    return Data({"x": x, "y": y}, {"slopes": slopes, "intercept": np.array(0.1)})


def schools() -> Data:
    return Data(SCHOOLS, {"mu": np.array(4.0), "tau": np.array(3.0), "effects": np.linspace(-1, 1, 8)})


def pictures(rows: int, sizes: tuple[int, int, int]) -> Data:
    """Zeros and ones whose logits are linear in a few numbers."""
    noise = np.random.default_rng(2)
    features, _, latents = sizes
    logits = noise.normal(size=(rows, latents)) @ noise.normal(size=(latents, features)) - 1.0
    return Data({"x": (noise.random((rows, features)) < 1 / (1 + np.exp(-logits))).astype(np.float64)}, {}, sizes)


def ones(*shape: int) -> Any:
    import torch

    return torch.ones(shape, dtype=torch.float64)


def mixture_model(rows: Any) -> None:
    import pyro
    import pyro.distributions as dist

    weights = pyro.sample("weights", dist.Dirichlet(ones(COMPONENTS)))
    loc = pyro.sample("loc", dist.Normal(0 * ones(COMPONENTS, 2), 5.0).to_event(2))
    scale = pyro.sample("scale", dist.LogNormal(0 * ones(COMPONENTS, 2), 1.0).to_event(2))
    with rows.plate():
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], scale[z]).to_event(1), obs=rows["x"])


def logistic_model(rows: Any) -> None:
    import pyro
    import pyro.distributions as dist

    slopes = pyro.sample("slopes", dist.Normal(0 * ones(8), 1.0).to_event(1))
    intercept = pyro.sample("intercept", dist.Normal(0 * ones(), 1.0))
    with rows.plate():
        pyro.sample("y", dist.Bernoulli(logits=intercept + rows["x"] @ slopes), obs=rows["y"])


def schools_model(rows: Any) -> None:
    import pyro
    import pyro.distributions as dist

    mu = pyro.sample("mu", dist.Normal(0 * ones(), 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5 * ones()))
    effects = pyro.sample("effects", dist.Normal(0 * ones(8), 1.0).to_event(1))
    with rows.plate():
        pyro.sample("y", dist.Normal(mu + tau * effects[rows.index], rows["sigma"]), obs=rows["y"])


@dataclass(frozen=True)
class Model:
    """A function as a model."""

    function: Callable[[Any], None]

    def model(self, rows: Any) -> None:
        self.function(rows)


def our_svi(function: Callable[[Any], None], restarts: int = 1) -> Callable[[Data], Call]:
    """Recorded at once, so that few and many passes differ by steps alone."""

    def prepare(data: Data) -> Call:
        import latentvars as lv

        model, rows = Model(function), lv.Rows(data.columns)
        capture = lv.Capture(wait=0, least=0)
        joint = our_joint(model, rows, data)

        def run(passes: int) -> Outcome:
            algorithm = lv.SVI(passes=passes, batch_size=len(rows), restarts=restarts, stop=lv.Never(), capture=capture)
            lv.fit(model, rows, algorithm, progress=False)
            return {"log joint at a point": joint}

        return run

    return prepare


def our_joint(model: Model, rows: Any, data: Data) -> np.ndarray:
    """Log joint density of globals and rows at the point, nats, discrete locals summed out."""
    import latentvars as lv

    fit = lv.from_point(model, rows, data.point)
    return np.array([fit.log_likelihood + float(fit.program.prior(fit.point))])


def their_svi(function: Callable[[Any], None]) -> Callable[[Data], Call]:
    def prepare(data: Data) -> Call:
        import pyro
        from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, config_enumerate
        from pyro.infer.autoguide import AutoNormal

        import latentvars as lv

        batch = lv.Rows(data.columns).batch()
        enumerated = function is mixture_model
        model = config_enumerate(function) if enumerated else function
        elbo = TraceEnum_ELBO(max_plate_nesting=1) if enumerated else Trace_ELBO(max_plate_nesting=1)
        guided = pyro.poutine.block(function, hide=["z"]) if enumerated else function
        joint = their_joint(model, guided, batch, data)

        def run(passes: int) -> Outcome:
            pyro.clear_param_store()
            pyro.set_rng_seed(0)
            svi = SVI(model, AutoNormal(guided, init_scale=0.1), pyro.optim.Adam({"lr": RATE}), elbo)
            for _ in range(passes):
                svi.step(batch)
            return {"log joint at a point": joint}

        return run

    return prepare


def their_joint(model: Any, guided: Any, batch: Any, data: Data) -> np.ndarray:
    """The same by Pyro's ELBO with a point mass as guide."""
    import pyro
    import torch
    from pyro.infer import TraceEnum_ELBO
    from pyro.infer.autoguide import AutoDelta
    from pyro.infer.autoguide.initialization import init_to_value

    pyro.clear_param_store()
    point = {name: torch.as_tensor(value) for name, value in data.point.items()}
    guide = AutoDelta(guided, init_loc_fn=init_to_value(values=point))
    with torch.no_grad():
        found = -TraceEnum_ELBO(max_plate_nesting=1).loss(model, guide, batch)
    pyro.clear_param_store()
    return np.array([found])


def our_gradient(data: Data) -> Call:
    import torch

    from latentvars.capture import Potential, Way
    from latentvars.program import Program
    from latentvars.rows import Rows

    rows = Rows(data.columns)
    program = Program.of(Model(schools_model), rows)
    potential = Potential.of(program, rows.batch(dtype=program.dtype))
    if potential.way is not Way.COMPILED:
        raise RuntimeError(f"not compiled: {'; '.join(potential.reasons)}")
    free = program.space.unconstrain({name: torch.as_tensor(value) for name, value in data.point.items()}).numpy()

    def run(calls: int) -> Outcome:
        for _ in range(calls - 1):
            potential.numpy(free)
        value, gradient = potential.numpy(free)
        return {"potential": np.array([value]), "gradient": gradient}

    return run


def their_gradient(data: Data) -> Call:
    """The potential and gradient that Pyro's NUTS works with; its transforms of these globals are ours."""
    import torch
    from pyro.infer.mcmc.util import initialize_model
    from pyro.ops.integrator import potential_grad

    import latentvars as lv

    batch = lv.Rows(data.columns).batch()
    start, potential, transforms, _ = initialize_model(schools_model, (batch,))
    point = {name: torch.as_tensor(data.point[name]) for name in start}
    free = {name: transforms[name](value) if name in transforms else value for name, value in point.items()}

    def run(calls: int) -> Outcome:
        for _ in range(calls - 1):
            potential_grad(potential, free)
        gradient, value = potential_grad(potential, free)
        parts = [gradient[name].reshape(-1) for name in data.point]
        return {"potential": np.array([float(value)]), "gradient": torch.cat(parts).numpy()}

    return run


def our_vae(compile: bool = False) -> Callable[[Data], Call]:
    """Compiled code is on disk after the first call."""

    def prepare(data: Data) -> Call:
        import torch

        import latentvars as lv

        features, hidden, latents = data.sizes
        rows = lv.Rows(data.columns)
        optimizer = functools.partial(torch.optim.Adam, lr=NETWORK_RATE)
        bound = lv.from_point(started(data), rows, {}).log_likelihood / len(rows)

        def run(epochs: int) -> Outcome:
            model = lv.models.VAE.mlp(features, latents, (hidden,))
            algorithm = lv.SVI(
                passes=epochs,
                batch_size=BATCH,
                optimizer=optimizer,
                stop=lv.Never(),
                capture=lv.Capture(wait=0, least=0),
                compile=compile,
            )
            lv.fit(model, rows, algorithm, progress=False)
            return {"bound at the start": np.array([bound])}

        return run

    return prepare


def started(data: Data) -> Any:
    """Our VAE as it is before the first step."""
    import latentvars as lv

    features, hidden, latents = data.sizes
    model = lv.models.VAE.mlp(features, latents, (hidden,))
    model.start_networks(lv.Rows(data.columns))
    return model


def their_vae(data: Data) -> Call:
    """The loop that everyone writes."""
    import torch

    x = torch.from_numpy(data.columns["x"]).float()
    torch.manual_seed(0)
    with torch.no_grad():
        encoder, decoder = plain_networks(data)
        bound = -sum(float(loss(encoder, decoder, batch)) for batch in x.split(BATCH)) / len(x)

    def run(epochs: int) -> Outcome:
        encoder, decoder = plain_networks(data)
        optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=NETWORK_RATE)
        for _ in range(epochs):
            order = torch.randperm(len(x))
            for first in range(0, len(x), BATCH):
                batch = x[order[first : first + BATCH]]
                optimizer.zero_grad()
                (loss(encoder, decoder, batch) / len(batch)).backward()
                optimizer.step()
        return {"bound at the start": np.array([bound])}

    return run


def loss(encoder: Any, decoder: Any, batch: Any) -> Any:
    """Minus the ELBO of a batch, nats, from one draw."""
    import torch
    from torch.nn import functional

    loc, log_scale = encoder(batch).chunk(2, -1)
    scale = log_scale.exp()
    logits = decoder(loc + scale * torch.randn_like(scale))
    misfit = functional.binary_cross_entropy_with_logits(logits, batch, reduction="sum")
    return misfit + 0.5 * (loc.square() + scale.square() - 1 - 2 * log_scale).sum()


def plain_networks(data: Data) -> tuple[Any, Any]:
    """Encoder and decoder with the weights with which our VAE begins, its constants among them."""
    import torch
    from torch import nn

    features, hidden, latents = data.sizes
    encoder = nn.Sequential(nn.Linear(features, hidden), nn.GELU(), nn.Linear(hidden, 2 * latents))
    decoder = nn.Sequential(nn.Linear(latents, hidden), nn.GELU(), nn.Linear(hidden, features))
    model = started(data)
    reader, network = model.encoder
    with torch.no_grad():
        encoder.load_state_dict(network.layers.state_dict())
        decoder.load_state_dict(model.decoder.layers.state_dict())
        encoder[0].bias -= encoder[0].weight @ (reader.loc / reader.scale)
        encoder[0].weight /= reader.scale
        decoder[-1].bias += model.likelihood.offset
    return encoder, decoder

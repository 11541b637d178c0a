"""The variational autoencoder: a latent normal vector, a decoder network and an amortised posterior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from latentvars.errors import DataError, ModelError, SettingError, ShapeError
from latentvars.models.columns import check_observed, feature_names
from latentvars.models.initial import filled
from latentvars.models.likelihoods import LIKELIHOODS, Likelihood, likelihood_from
from latentvars.models.networks import MLP, Standardize
from latentvars.models.teaching import check_teaching, coordinates, teach
from latentvars.randomness import generator
from latentvars.rows import Batch, Rows

PRECISIONS = {"float32": torch.float32, "float64": torch.float64}


@final
@dataclass(frozen=True, eq=False)
class VAE:
    """Variational autoencoder (Kingma & Welling 2014).

        z_n ~ Normal(0, I_L)                              local, site "z"
        x_n ~ likelihood.distribution(decoder(z_n))       observed, site "x"
        q(z_n | x_n) = Normal(loc_n, diag(scale_n²)),     (loc_n, scale_n) = encoder(x_n)

    The networks hold all parameters; there are no globals. A linear decoder and encoder with :class:`Gaussian`
    likelihood is probabilistic PCA (noise "shared") or factor analysis (noise "feature") trained by variational
    inference; the optimum of the ELBO is the exact likelihood's for pPCA (Lucas et al. 2019).

    Missing entries are integrated out exactly, as entries are independent given z. The encoder reads the mean of the
    feature in their place: q may be any function of the observed entries (Mattei & Frellsen 2019, section 4).

    Args:
        encoder: ``[..., features]`` → ``[..., 2 latents]``, loc and log scale side by side, or a tuple
            ``(loc, scale)`` of ``[..., latents]`` each.
        decoder: ``[..., latents]`` → ``[..., likelihood.outputs]``; any leading dimensions.
        latents: L.
        likelihood: p(x | decoder(z)), see :mod:`latentvars.models.likelihoods`.

    Raises:
        SettingError: fewer than one latent.
    """

    encoder: nn.Module
    decoder: nn.Module
    latents: int
    likelihood: Likelihood

    def __post_init__(self) -> None:
        _check_latents(self.latents)

    @staticmethod
    def mlp(
        features: int,
        latents: int,
        hidden: Sequence[int] = (128,),
        likelihood: str | Likelihood = "bernoulli",
        *,
        activation: str = "gelu",
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> VAE:
        """A VAE whose networks are multi-layer perceptrons; the decoder's hidden layers are the encoder's reversed.

        The scale of q starts at 1 for every row.

        Args:
            features: D, number of columns of x.
            latents: L.
            hidden: widths of the encoder's hidden layers; ``()`` makes encoder and decoder linear.
            likelihood: "bernoulli", "gaussian" (shared noise), "poisson", or an object, which is copied.
            activation: a name in :data:`latentvars.models.networks.ACTIVATIONS`.
            seed: what the weights depend on.
            dtype: precision of the networks, which the data are cast to.

        Raises:
            SettingError: a width below one, an unknown activation or likelihood.
            ShapeError: a likelihood object for another number of features.
        """
        _check_latents(latents)
        if isinstance(likelihood, str):
            likelihood = likelihood_from({"name": likelihood, "features": features})
        if likelihood.features != features:
            raise ShapeError(
                f"features={features} and a likelihood of {likelihood.features} features",
                "the same number",
                "make them equal.",
            )
        likelihood = deepcopy(likelihood).to(dtype)
        reader = likelihood.reader().to(dtype)
        width = reader(likelihood.offset.new_zeros(1, features)).shape[-1]
        first, second = generator(seed, 0), generator(seed, 1)
        network = MLP(width, 2 * latents, hidden, activation, generator=first, dtype=dtype)
        with torch.no_grad():
            network.head.weight[latents:].zero_()
        hidden = tuple(reversed(network.hidden))
        decoder = MLP(latents, likelihood.outputs, hidden, activation, generator=second, dtype=dtype)
        return VAE(nn.Sequential(reader, network), decoder, latents, likelihood)

    def model(self, rows: Batch) -> None:
        """Sites "z" ``[B, latents]`` and "x" ``[B, features]``, both inside the rows plate."""
        zero = self.likelihood.offset.new_zeros(self.latents)
        with rows.plate():
            z = pyro.sample("z", dist.Normal(zero, torch.ones_like(zero)).to_event(1))
            pyro.sample("x", self.decoder_distribution(z), obs=self._input(rows.x))

    def guide(self, rows: Batch) -> None:
        """Site "z" ``[B, latents]`` inside the rows plate."""
        with rows.plate():
            pyro.sample("z", self.encoder_distribution(rows.x, complete=rows.observed is None))

    def dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the axes of the latents."""
        return {"z": ("row", "latent")}

    def encoder_distribution(self, x: Tensor, *, complete: bool = False) -> dist.TorchDistribution:
        """q(z | x), ``[..., features]`` → batch shape ``[...]``, event shape ``[latents]``.

        Args:
            x: NaN, which is missing, is read as the mean of the data.
            complete: whether it is known to have no NaN.

        Raises:
            ModelError: the encoder's output has another width.
        """
        x = self._input(x)
        output = self.encoder(x if complete else torch.where(x.isnan(), self.likelihood.typical(), x))
        if isinstance(output, tuple):
            loc, scale = output
        else:
            _check_width("encoder", output, 2 * self.latents, "loc and log scale of every latent")
            loc, log_scale = output.chunk(2, -1)
            scale = log_scale.exp()
        _check_width("encoder", loc, self.latents, "one loc for every latent")
        return dist.Normal(loc, scale).to_event(1)

    def decoder_distribution(self, z: Tensor) -> dist.TorchDistribution:
        """p(x | z), ``[..., latents]`` → batch shape ``[...]``, event shape ``[features]``.

        Raises:
            ModelError: the decoder's output has another width than the likelihood needs.
        """
        output = self.decoder(z)
        name = type(self.likelihood).__name__
        _check_width("decoder", output, self.likelihood.outputs, f"{name}({self.likelihood.features}).outputs")
        return self.likelihood.distribution(output)

    def prepare(self, rows: Rows) -> Rows:
        """The rows themselves, once they are known to fit the model; nothing is changed.

        Raises:
            ShapeError: sequences, or another number of features.
            DataError: values outside the likelihood's support.
        """
        x, features = _column(rows), self.likelihood.features
        if rows.lengths is not None:
            raise ShapeError("rows that are sequences", "one vector a row", "pass the steps as rows, or use an HMM.")
        if x.dim() != 2 or x.shape[1] != features:
            given = f"{x.shape[1]} features" if x.dim() == 2 else f"shape {list(x.shape[1:])} per row"
            raise ShapeError(given, f"{features} features", f"pass x as [rows, {features}], or build the model anew.")
        self.likelihood.check(x)
        return rows

    def start_networks(self, rows: Rows) -> None:
        """Take the constants of the networks *in place* from data: called once, on a copy, before training.

        Sets the likelihood's offset (mean of the data on the scale of the decoder's output) and unit, the noise that
        a Gaussian likelihood starts from, and the centre and scale of the :class:`Standardize` layers of the encoder.
        Weights are left alone, and so is a model that was started before, whose weights belong to its constants.

        Raises:
            DataError: a feature is never observed, or a Gaussian noise variance would be estimated from constant data.
        """
        if bool(self.likelihood.started):
            return
        x, weights = _column(rows).to(torch.float64), rows.weights.to(torch.float64)
        check_observed(x[weights > 0], feature_names(rows))
        x = filled(x, weights)
        self.likelihood.start(x, weights)
        self.likelihood.started.fill_(True)
        for layer in self.encoder.modules():
            if isinstance(layer, Standardize):
                layer.start(x, weights)

    def taught(self, rows: Any, latents: Any, *, spread: float = 0.03, steps: int = 1_500, seed: int = 0) -> VAE:
        """A copy that starts from coordinates: its encoder puts each row there, its decoder gives the row back.

        A folded sheet has many optima, and random weights rarely find the one that unfolds it. Coordinates of another
        method (Isomap, PCA, known covariates) decide which is found; training by SVI goes on from there.

        Args:
            rows: N rows without missing entries.
            latents: ``[N, latents]``; brought to mean 0 and deviation 1, as the prior expects.
            spread: deviation, in those units, within which rows are not told apart at the start.
            steps: of 256 rows each.
            seed: of rows and noise.

        Raises:
            ShapeError: one coordinate too many or too few.
            DataError: missing entries, or coordinates that tell no rows apart.
        """
        check_teaching(spread, steps)
        prepared, made = self.prepare(Rows.of(rows)), deepcopy(self)
        made.start_networks(prepared)
        x = made._input(_column(prepared))
        if bool(x.isnan().any()):
            raise DataError("rows with missing entries", "complete rows to start from", "leave these rows out here.")
        z = coordinates(torch.as_tensor(np.asarray(latents)).to(x.dtype), len(x), self.latents)
        parts = (made.encoder, made.decoder, made.likelihood)
        teach(made, [weight for part in parts for weight in part.parameters()], x, z, spread, steps, seed)
        return made

    def config(self) -> dict[str, Any] | None:
        """What :meth:`from_config` rebuilds the model from, as JSON values, weights apart; None for custom modules."""
        parts = list(self.encoder) if type(self.encoder) is nn.Sequential else []
        if len(parts) != 2 or not (isinstance(parts[1], MLP) and isinstance(self.decoder, MLP)):
            return None
        likelihood = self.likelihood.config()
        if type(self.likelihood) is not LIKELIHOODS.get(likelihood.get("name", "")):
            return None
        config = {
            "features": self.likelihood.features,
            "latents": self.latents,
            "hidden": list(parts[1].hidden),
            "likelihood": likelihood,
            "activation": parts[1].activation,
            "dtype": str(self.likelihood.offset.dtype).removeprefix("torch."),
        }
        return config if config["dtype"] in PRECISIONS and self._rebuilt_by(config) else None

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> VAE:
        """The model that :meth:`config` describes, with weights still to be loaded.

        Raises:
            SettingError: an unknown likelihood, activation or precision.
        """
        settings = dict(config)
        dtype = settings.pop("dtype", "float32")
        if dtype not in PRECISIONS:
            raise SettingError(f"dtype={dtype!r}", f"one of {', '.join(PRECISIONS)}", "correct the file.")
        likelihood = likelihood_from(settings.pop("likelihood"))
        return VAE.mlp(**settings, likelihood=likelihood, dtype=PRECISIONS[dtype])

    def _rebuilt_by(self, config: Mapping[str, Any]) -> bool:
        """Whether the model that ``config`` describes has these layers."""
        other = VAE.from_config(config)
        return repr(self.encoder) == repr(other.encoder) and repr(self.decoder) == repr(other.decoder)

    def _input(self, x: Tensor) -> Tensor:
        """Data in the precision of the networks; integers become floats."""
        return x.to(self.likelihood.offset.dtype)


def _column(rows: Rows) -> Tensor:
    """What ``Batch.x`` reads, of all rows."""
    if "x" not in rows.columns and len(rows.columns) == 1:
        return next(iter(rows.columns.values()))
    return rows["x"]


def _check_latents(latents: int) -> None:
    if latents < 1:
        raise SettingError(f"latents={latents}", "at least one latent", "correct it.")


def _check_width(network: str, output: Tensor, width: int, meaning: str) -> None:
    if output.shape[-1] != width:
        raise ModelError(
            f"the {network} gives {output.shape[-1]} outputs",
            f"{width}: {meaning}",
            f"correct the {network}'s last layer.",
        )

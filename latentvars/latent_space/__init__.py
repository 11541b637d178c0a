"""Latent spaces: sampled, decoded, walked through, inverted; what is unlike all that a model was fitted to."""

from latentvars.latent_space.aggregate import Aggregate
from latentvars.latent_space.anomaly import Anomaly
from latentvars.latent_space.decoding import Decoded
from latentvars.latent_space.directions import Direction
from latentvars.latent_space.inversion import Inversion
from latentvars.latent_space.measures import Disentanglement, Smoothness, Units
from latentvars.latent_space.paths import LatentPath
from latentvars.latent_space.space import LatentSpace

__all__ = [
    "Aggregate",
    "Anomaly",
    "Decoded",
    "Direction",
    "Disentanglement",
    "Inversion",
    "LatentPath",
    "LatentSpace",
    "Smoothness",
    "Units",
]

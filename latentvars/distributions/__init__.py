"""Collapsed distributions: observed sites whose discrete latents are summed out, and what they are made of."""

from latentvars.distributions.chain_evidence import stationary
from latentvars.distributions.chain_posterior import ChainPosterior
from latentvars.distributions.conditional import Guess, drawn, expected, guessed
from latentvars.distributions.factor_normal import FactorNormal
from latentvars.distributions.flat import Flat, flat, ordered
from latentvars.distributions.hidden_markov import HiddenMarkov
from latentvars.distributions.missing import ObservedPart, completed, observed_part
from latentvars.distributions.mixture import Mixture
from latentvars.distributions.ordering import OrderedBy
from latentvars.distributions.product import Product
from latentvars.distributions.soft_categorical import SoftCategorical
from latentvars.distributions.stick_breaking import StickBreaking, stick_breaking
from latentvars.distributions.tails import Tails, chain_tails, step_states, tails

__all__ = [
    "ChainPosterior",
    "FactorNormal",
    "Flat",
    "Guess",
    "HiddenMarkov",
    "Mixture",
    "ObservedPart",
    "OrderedBy",
    "Product",
    "SoftCategorical",
    "StickBreaking",
    "Tails",
    "chain_tails",
    "completed",
    "drawn",
    "expected",
    "flat",
    "guessed",
    "observed_part",
    "ordered",
    "stationary",
    "step_states",
    "stick_breaking",
    "tails",
]

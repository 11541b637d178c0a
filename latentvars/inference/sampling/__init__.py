"""Draws of the globals from their posterior."""

from latentvars.inference.sampling.draws import Draws
from latentvars.inference.sampling.nuts import NUTS

__all__ = ["NUTS", "Draws"]

"""Guides for continuous locals that are made from a model and its data."""

from latentvars.inference.amortised.settings import Amortised, with_guide

__all__ = ["Amortised", "with_guide"]

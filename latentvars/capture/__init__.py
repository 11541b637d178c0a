"""From Pyro code to a pure tensor graph: recorded once, shortened, run without handlers, mapped, compiled."""

from latentvars.capture.calling import from_cpp
from latentvars.capture.folding import folded
from latentvars.capture.noise import Noise, hoisted, noise_of, reseeded
from latentvars.capture.recording import Unrecordable, capture, check_pure

__all__ = ["Noise", "Unrecordable", "capture", "check_pure", "folded", "from_cpp", "hoisted", "noise_of", "reseeded"]

"""From Pyro code to a pure tensor graph: recorded once, shortened, run without handlers, mapped, compiled."""

from latentvars.capture.batches import flat, like
from latentvars.capture.calling import from_cpp
from latentvars.capture.folding import folded, shortened
from latentvars.capture.noise import Noise, hoisted, noise_of, reseeded
from latentvars.capture.over_draws import over_draws
from latentvars.capture.packages import NoCompiler, cache_folder, compiled
from latentvars.capture.potential import Potential, Way
from latentvars.capture.recording import UNRECORDABLE, Unrecordable, capture, check_pure

__all__ = [
    "UNRECORDABLE",
    "NoCompiler",
    "Noise",
    "Potential",
    "Unrecordable",
    "Way",
    "cache_folder",
    "capture",
    "check_pure",
    "compiled",
    "flat",
    "folded",
    "from_cpp",
    "hoisted",
    "like",
    "noise_of",
    "over_draws",
    "reseeded",
    "shortened",
]

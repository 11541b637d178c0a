"""What is read off the density of the globals alone: its maximum and curvature, and paths towards it."""

from latentvars.inference.density.laplace import Laplace
from latentvars.inference.density.normals import Normals
from latentvars.inference.density.pathfinder import Pathfinder

__all__ = ["Laplace", "Normals", "Pathfinder"]

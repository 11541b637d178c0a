"""What fits many times: the bootstrap, sweeps over numbers of components, the likelihood-ratio test."""

from latentvars.studies.bootstrap import Bootstrap, bootstrap
from latentvars.studies.likelihood_ratio import LikelihoodRatio, likelihood_ratio
from latentvars.studies.sweep import sweep
from latentvars.studies.sweep_result import Sweep

__all__ = ["Bootstrap", "LikelihoodRatio", "Sweep", "bootstrap", "likelihood_ratio", "sweep"]

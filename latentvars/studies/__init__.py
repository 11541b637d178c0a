"""What fits many times: the bootstrap."""

from latentvars.studies.bootstrap import Bootstrap, bootstrap

__all__ = ["Bootstrap", "bootstrap"]

"""Checks of hyper-parameters that several algorithms share."""

from __future__ import annotations

from numbers import Integral

from latentvars.errors import SettingError


def check_at_least(name: str, value: int, least: int) -> None:
    """A whole number of at least ``least``."""
    if not isinstance(value, Integral) or value < least:
        raise SettingError(f"{name}={value!r}", f"a whole number of at least {least}", f"write {name}={max(1, least)}")


def check_share(name: str, value: float) -> None:
    """A number in [0, 1)."""
    if not 0 <= value < 1:
        raise SettingError(f"{name}={value}", "a share in [0, 1)", f"write {name}=1e-6")

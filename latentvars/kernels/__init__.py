"""Compiled code, built from ``core/src``, and its arrays."""

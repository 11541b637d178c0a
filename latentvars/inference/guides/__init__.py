"""Variational distributions over the globals, and what a run knows of these at its end."""

"""Stochastic variational inference: a step by the model's own code, as a recorded graph, for many starts at once."""

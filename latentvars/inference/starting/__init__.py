"""Where a run starts: the model's own start, the user's, groups of the observations, draws of the prior."""

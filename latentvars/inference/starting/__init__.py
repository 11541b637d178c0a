"""Where a run starts. Ways to group observations for it, which models know too, stand in :mod:`latentvars.starts`."""

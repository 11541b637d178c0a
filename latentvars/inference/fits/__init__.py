"""What a run leaves behind: a fit, printed, saved, told from others, its locals refined and its labels aligned."""

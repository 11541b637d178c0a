"""Whether a fitted model describes its data: predictive checks, distribution functions, residuals. No fitting."""

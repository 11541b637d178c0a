"""Compiled code (numba) for hidden Markov chains; imported when first used, as compilers are slow to import."""

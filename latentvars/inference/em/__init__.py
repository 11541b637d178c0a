"""EM: exact E-steps, M-steps in closed form or by L-BFGS, and what makes them fast."""

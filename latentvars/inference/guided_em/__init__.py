"""EM whose E-step draws continuous locals from a guide that is trained between the M-steps."""

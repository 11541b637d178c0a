"""What a run stands on, whatever the algorithm: its contract, all rows, processes, how it ends, what is on disk."""

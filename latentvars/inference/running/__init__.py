"""What a run stands on, whatever the algorithm: its contract, all rows, processes, when to end, what is on disk."""

"""A run of anything: its folder, events, results and checkpoints."""

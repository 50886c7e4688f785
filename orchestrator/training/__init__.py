"""The worker's side: one loop, its engine, checkpoints, averages and held-out loss."""

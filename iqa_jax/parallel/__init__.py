"""Several processes: one training run, or one job that they share."""

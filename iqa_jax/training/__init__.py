"""Training, from the configuration to the last checkpoint."""

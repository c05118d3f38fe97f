"""Weights and images -> scores."""

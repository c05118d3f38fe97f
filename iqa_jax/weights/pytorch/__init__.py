"""Weights that PyTorch has written."""

"""What is on disk, as pairs of images."""

"""Arrays in, arrays out; JAX alone."""

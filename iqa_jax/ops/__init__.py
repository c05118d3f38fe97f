"""Arrays in, arrays out; JAX alone."""

import jax
import numpy as np

Array = np.ndarray | jax.Array  # on the host, or wherever JAX has it

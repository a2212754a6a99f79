"""How a mask is made and scored: pure functions on arrays. Imports `schemas`; never Beam, TensorFlow, JAX or files."""

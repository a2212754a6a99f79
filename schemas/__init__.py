"""What flows: records, RLE, shards, manifest, ledger. Imports nothing of the other rooms, nor Beam, TensorFlow or JAX."""

"""What a worker does: configuration, plan, one image, one part, one shard."""

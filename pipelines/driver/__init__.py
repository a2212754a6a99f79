"""A build from plan to manifest."""

"""Frozen values: what Consul said, what nginx shall do, what came of it. No clock, no disk, no network."""

"""What the nodes of one fleet tell each other through Consul."""

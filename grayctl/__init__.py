"""Progressive delivery for Nginx and Consul."""

__version__ = "0.1.0"

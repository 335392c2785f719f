"""Consul: the one adapter over python-consul2, decoding, blocking queries, and every write."""

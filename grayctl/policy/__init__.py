"""Catalog in, Plan out: what nginx shall do, decided without a clock, a disk or a network."""

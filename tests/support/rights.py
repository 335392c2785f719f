"""What only root can try."""

import os

import pytest


def demand_root(why: str) -> None:
    """End the test as skipped where we are somebody else; CI is root.

    Args:
        why: what only root may do.
    """
    if os.geteuid() != 0:
        pytest.skip(f"needs root: {why}")

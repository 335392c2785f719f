"""What a service is called in nginx and on disk."""

import re

_NOT_ID = re.compile(r"[^a-z0-9_]")
_NOT_SLUG = re.compile(r"[^a-z0-9_.-]")


def service_id(service: str) -> str:
    """The service's name in [a-z0-9_], as in `$gray_<id>`."""
    return _NOT_ID.sub("_", service.lower())


def service_slug(service: str) -> str:
    """The service's name for files and upstreams; two names with different ids have different slugs."""
    return _NOT_SLUG.sub("_", service.lower())

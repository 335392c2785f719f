"""What a service is called in nginx and on disk."""

import re

_NOT_ID = re.compile(r"[^a-z0-9_]")
_NOT_SLUG = re.compile(r"[^a-z0-9_.-]")

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,62}\Z")
VERSION_RULE = "a letter or digit, then up to 62 of letters, digits, '.', '_', '+', '-'"


def is_version(text: str) -> bool:
    """Whether the text may be a version, as `VERSION_RULE` says it."""
    return bool(_VERSION.match(text))


def service_id(service: str) -> str:
    """The service's name in [a-z0-9_], as in `$gray_<id>`."""
    return _NOT_ID.sub("_", service.lower())


def service_slug(service: str) -> str:
    """The service's name for files and upstreams; two names with different ids have different slugs."""
    return _NOT_SLUG.sub("_", service.lower())

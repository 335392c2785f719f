"""Puts the parts of one node together: what `grayctl run` and a manual `grayctl render` both start from."""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from grayctl import log
from grayctl.converge import Converger
from grayctl.nginx.generations import Store
from grayctl.nginx.inspect import Facts, inspect
from grayctl.nginx.site import Site
from grayctl.policy.resolve import Limits, stub
from grayctl.render.fileset import Dialect, Renderer
from grayctl.render.templates import Templates
from grayctl.settings import Settings


@dataclass(frozen=True, slots=True)
class Parts:
    """What converges one node."""

    templates: Templates
    site: Site
    converger: Converger


async def assemble(settings: Settings, store: Store) -> Parts:
    """Recover what a crash left, make generation 0 where there is none, and be ready to converge.

    Raises:
        NginxError: nginx is missing or its configuration cannot be read.
        StateError: the state directory cannot be written.
        TemplateError: there is no generation yet, and the entry template fails.
    """
    events = log.get("start")
    facts = await asyncio.to_thread(inspect, settings.nginx, Path(settings.state_dir))
    templates = Templates(settings.templates_dir)
    for name, error in templates.broken.items():
        events.error("template_broken", template=name, error=str(error))
    site = Site(settings.nginx, settings.reload, store, facts, keep=settings.keep_generations)
    events.info("recovered", **(await site.recover()).event())
    renderer = Renderer(templates, settings, dialect(facts))
    limits = Limits(facts.variables_hash_bucket_size)
    if store.current() is None:
        stubs = {name: renderer.stub(stub(name, settings)) for name in settings.watch.exact if _fits(name, limits)}
        site.init(renderer.file_set(stubs), created=time.time())
    converger = Converger(settings, renderer, store, site, limits)
    return Parts(templates, site, converger)


def _fits(service: str, limits: Limits) -> bool:
    """Whether nginx can take the service's name: one that it cannot would make it refuse generation 0 as a whole."""
    too_long = limits.refusal(service)
    if too_long is not None:
        log.get("start").error("service_refused", service=service, reason=too_long)
    return too_long is None


def dialect(facts: Facts) -> Dialect:
    """What templates must know about the nginx at hand."""
    return Dialect(http2=facts.has_http2, http2_directive=facts.http2_directive)

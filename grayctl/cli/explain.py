"""`grayctl explain`: which version a request gets, and why."""

import asyncio
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from grayctl.cli.common import json_option, print_json, settings_of
from grayctl.errors import EXIT_REFUSED, GrayctlError, NginxError
from grayctl.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from grayctl.model.catalog import Catalog
    from grayctl.model.generation import Object
    from grayctl.model.plan import ServicePlan
    from grayctl.model.release import Release
    from grayctl.policy.explain import Explanation
    from grayctl.policy.request import Request
    from grayctl.policy.standing import Standing


@click.command()
@click.argument("service")
@click.option("-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="A header; may be repeated.")
@click.option("--cookie", "cookies", multiple=True, metavar="NAME=VALUE", help="A cookie; may be repeated.")
@click.option("--ip", default="127.0.0.1", show_default=True, help="The client's address, as nginx sees it.")
@click.option("--url", default="/", show_default=True, help="Path and query, or a whole URL.")
@click.option("--method", default="GET", show_default=True)
@click.option("--port", type=int, help="The server's port [from --url, else 80].")
@click.option("--var", "variables", multiple=True, metavar="NAME=VALUE", help="A variable of another nginx module.")
@click.option(
    "--users", type=click.Path(exists=True, dir_okay=False), help="One user a line: how they are distributed."
)
@click.option("--catalog", type=click.Path(exists=True, dir_okay=False), help="Offline: instances from this file.")
@click.option("--release", "policy", type=click.Path(exists=True, dir_okay=False), help="Offline: this policy.")
@click.option("--list", "lists", multiple=True, metavar="NAME=FILE", help="Offline: a list; may be repeated.")
@json_option
@click.pass_context
def explain(  # noqa: PLR0917 -- click passes options so
    ctx: click.Context,
    service: str,
    headers: tuple[str, ...],
    cookies: tuple[str, ...],
    ip: str,
    url: str,
    method: str,
    port: int | None,
    variables: tuple[str, ...],
    users: str | None,
    catalog: str | None,
    policy: str | None,
    lists: tuple[str, ...],
    as_json: bool,
) -> None:
    """Say which version of SERVICE a request gets, and why: what nginx decides, worked out by the same tables.

    \b
    Examples:
      grayctl explain shop -H 'X-User-ID: 42'
      grayctl explain shop --url '/cart?beta=1' --ip 10.1.2.3 --json
      grayctl explain shop --users users.txt
      grayctl explain shop --catalog catalog.yaml --release shop.yaml --list beta-users=users.txt
    """  # noqa: D301 -- \b is click's mark for text that must not be wrapped
    from grayctl.nginx.inspect import version as nginx_version
    from grayctl.policy.explain import explain as work_out

    settings = settings_of(ctx)
    if bool(catalog) != bool(policy):
        raise click.UsageError("--catalog and --release go together: offline, both are needed")
    if lists and not catalog:
        raise click.UsageError("--list goes with --catalog: with Consul the lists are those that are there")
    if catalog and policy:
        plan, release = _offline_plan(settings, service, Path(catalog), Path(policy), lists)
    else:
        plan, release = asyncio.run(_plan(settings, service))
    request = _request(headers, cookies, ip=ip, url=url, method=method, port=port, variables=variables)
    with suppress(NginxError):  # there is none on this machine: then as an old one
        request = replace(request, nginx=nginx_version(settings.nginx))
    try:
        if users:
            _distribution(plan, release, request, Path(users), as_json=as_json)
            return
        told = work_out(plan.service, plan.id, plan.tables, request)
    except ValueError as error:
        click.echo(f"nginx refuses this request: {error}", err=True)
        sys.exit(EXIT_REFUSED)
    if as_json:
        print_json(told)
    else:
        _print(told, plan)


def _offline_plan(
    settings: Settings, service: str, catalog: Path, policy: Path, lists: tuple[str, ...]
) -> "tuple[ServicePlan, Release]":
    """As `_plan`, from files."""
    from grayctl import catalog_file
    from grayctl.release_file import offline, read_lists

    return _planned(settings, service, catalog_file.load(catalog), offline([policy], read_lists(lists)), {})


async def _plan(settings: Settings, service: str) -> "tuple[ServicePlan, Release]":
    """What nginx shall do for the service, and the policy that says so.

    Raises:
        GrayctlError: there is no such service, or no policy for it.
    """
    from grayctl.consul.client import ConsulClient
    from grayctl.consul.once import read_catalog
    from grayctl.policy.standing import Here, Policies
    from grayctl.render.fileset import in_force_of

    async with ConsulClient(settings.consul, connections=1) as client:
        found = await read_catalog(client, settings)
    served = _served(settings)
    standing = Policies(in_force_of(served)).judge(found.kv, Here(settings.node, settings.labels))
    return _planned(settings, service, found, standing, served)


def _planned(
    settings: Settings, service: str, catalog: "Catalog", standing: "Standing", served: "Mapping[str, Object]"
) -> "tuple[ServicePlan, Release]":
    from grayctl.policy.resolve import Limits, resolve
    from grayctl.render.fileset import known_of

    plan = resolve(catalog, known_of(served), settings, Limits(), standing=standing)
    if service in plan.refused:
        raise GrayctlError(f"{service}: {plan.refused[service]}")
    if service not in plan.services:
        known = ", ".join(sorted(plan.services)) or "none"
        raise GrayctlError(f"no service {service!r} is watched; watched are: {known}")
    if service in standing.problems:
        click.echo(f"{service}: {standing.problems[service]}", err=True)
    found = plan.services[service]
    if found.compiled is None:
        raise GrayctlError(f"{service} has no release in force: every request goes to all of its instances, by weight")
    return found, found.compiled.in_force.release


def _served(settings: Settings) -> "dict[str, Object]":
    """What this node serves: a broken policy in Consul leaves it in force. Nothing where that may not be read."""
    from grayctl.errors import StateError
    from grayctl.nginx.generations import Store

    store = Store(Path(settings.state_dir))
    try:
        current = store.current()
        return dict(store.objects(current, whole=False)) if current else {}
    except (StateError, OSError) as error:
        click.echo(f"what this node serves cannot be read ({error}): explaining what Consul says", err=True)
        return {}


def _request(
    headers: tuple[str, ...],
    cookies: tuple[str, ...],
    *,
    ip: str,
    url: str,
    method: str,
    port: int | None,
    variables: tuple[str, ...],
) -> "Request":
    import ipaddress

    from grayctl.policy.request import Request

    try:
        address = ip if ip == "unix:" else str(ipaddress.ip_address(ip))
    except ValueError as error:
        raise click.UsageError(f"--ip: {ip!r} is no IP address") from error
    parts = urlsplit(url)
    pairs = [_pair(one, ":", "-H", "'NAME: VALUE'") for one in headers]
    if parts.netloc and not any(name.lower() == "host" for name, _ in pairs):
        pairs.insert(0, ("Host", parts.netloc.rpartition("@")[2]))
    if cookies:
        pairs.append(("Cookie", "; ".join("=".join(_pair(one, "=", "--cookie", "NAME=VALUE")) for one in cookies)))
    defined = [_pair(one, "=", "--var", "NAME=VALUE") for one in variables]
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    default = {"https": 443}.get(parts.scheme, 80)
    return Request(
        target=target.encode("utf-8", "surrogateescape"),
        method=method.encode(),
        headers=tuple((name.encode(), value.encode("utf-8", "surrogateescape")) for name, value in pairs),
        address=address,
        port=port or parts.port or default,
        variables={name: value.encode("utf-8", "surrogateescape") for name, value in defined},
    )


def _pair(text: str, separator: str, option: str, form: str) -> tuple[str, str]:
    name, found, value = text.partition(separator)
    if not found or not name.strip():
        raise click.UsageError(f"{option}: {text!r}: write {form}")
    return name.strip(), value.strip() if separator == ":" else value


def _print(told: "Explanation", plan: "ServicePlan") -> None:
    answer = f"version {told.version}" if told.version else f"no version: nginx answers {told.status}"
    click.echo(f"{told.service}: {answer}")
    click.echo(f"  route     {told.route}{'  (fallback: the version meant has no instance)' if told.fallback else ''}")
    if told.by_chance:
        click.echo("  chance    the policy knows no users: each request is decided on its own, this is the likeliest")
    if told.slot is not None:
        click.echo(f"  slot      {told.slot} of 10000")
    click.echo(f"  upstream  {told.upstream}")
    for one in plan.upstreams:
        if one.name.text == told.upstream:
            click.echo(f"  instances {', '.join(server.address.text for server in one.servers)}")
    click.echo("  asked, in this order:")
    for step in told.trace:
        click.echo(f"    {'->' if step.held else '  '} {step.name}: {step.why}")
    if not told.trace:
        click.echo("       nothing: everybody gets the same")


def _distribution(plan: "ServicePlan", release: "Release", request: "Request", users: Path, *, as_json: bool) -> None:
    """How the users of a file are distributed, each as the first identity of the policy."""
    from grayctl.model.release import Source
    from grayctl.policy.explain import Explainer

    chain = release.identity
    if not chain or chain[0].source not in {Source.HEADER, Source.COOKIE}:
        raise GrayctlError(f"{plan.service}: its first identity is no header and no cookie, so users cannot be tried")
    counted: Counter[tuple[str, str]] = Counter()
    explainer = Explainer(plan.service, plan.id, plan.tables)
    for line in users.read_bytes().splitlines():
        user = line.strip()
        if not user:
            continue
        name = chain[0].name.encode()
        pair = (name, user) if chain[0].source is Source.HEADER else (b"Cookie", name + b"=" + user)
        told = explainer.explain(replace(request, headers=(pair, *request.headers)))
        counted[told.version or str(told.status), told.route] += 1
    total = counted.total()
    rows = [
        {"version": version, "route": route, "users": count, "share": count / total}
        for (version, route), count in sorted(counted.items())
    ]
    if as_json:
        print_json({"service": plan.service, "users": total, "distribution": rows})
        return
    click.echo(f"{plan.service}: {total} users")
    for row in rows:
        click.echo(f"  {row['version']:<12} {row['route']:<20} {row['users']:>8}  {row['share']:.2%}")

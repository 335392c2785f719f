"""A location of one line: what it passes to follows the policy, and whoever wrote it edits nothing."""

import http.client
from collections.abc import Callable

import pytest

from grayctl.policy.live import encode_ended
from tests.support.edge import Edge
from tests.support.process import wait_until

SHOP = "service: shop\nstable: v1\n"
CANARY = SHOP + "routes: [{name: testers, match: {header: {X-Version: v2}}, to: v2}]\n"


@pytest.fixture
def line(edge: Edge) -> Edge:
    """Two versions without a policy; the one location includes the pass file and nothing else."""
    edge.nginx.locations = f"location / {{ include {edge.nginx.state_dir}/snippets/pass/shop.conf; }}"
    edge.nginx.write_conf()
    edge.backend("one", version="v1")
    edge.backend("two", version="v2")
    return edge


def put(edge: Edge, policy: str) -> None:
    edge.consul.put(f"{edge.folder.name}/releases/shop", policy.encode())


def passes(edge: Edge, target: str) -> Callable[[], bool]:
    """Whether the file ends with this pass."""
    path = edge.nginx.state_dir / "snippets" / "pass" / "shop.conf"
    return lambda: path.read_text(encoding="utf-8").endswith(f"\n{target};\n")


def asked(edge: Edge) -> str:
    """Who answers a tester."""
    connection = http.client.HTTPConnection("127.0.0.1", edge.nginx.web, timeout=5)
    try:
        connection.request("GET", "/", headers={"X-Version": "v2"})
        return connection.getresponse().read().decode().strip()
    finally:
        connection.close()


def test_the_line_follows_a_policy_that_comes_and_goes(line: Edge) -> None:
    printed = line.cli("init", "--service", "shop").stdout
    assert f"\n    include {line.nginx.state_dir}/snippets/pass/shop.conf;\n" in printed
    assert passes(line, "proxy_pass http://shop.gray")(), "init writes it, so that nginx starts with it"
    line.up()
    wait_until(lambda: line.serves("one", "two"), "all instances serve")
    put(line, CANARY)
    wait_until(passes(line, "proxy_pass http://$gray_shop"), "each request is decided")
    wait_until(lambda: line.serves("one") and asked(line) == "two", "and goes where the policy says")
    put(line, SHOP)
    wait_until(passes(line, "proxy_pass http://shop.v1.gray"), "nothing is decided any more")
    wait_until(lambda: line.serves("one") and asked(line) == "one", "everybody gets the stable version")
    generation = line.generation()
    line.down()
    line.run()
    line.backend("one", version="v1", weight=5)
    wait_until(lambda: line.generation() == generation + 1, "after a restart the first change is the first generation")
    line.consul.delete(f"{line.folder.name}/releases/shop")
    wait_until(lambda: "gone from Consul" in line.cli("status").stdout, "what is gone stays in force")
    line.consul.put(f"{line.folder.name}/live/shop", encode_ended())
    wait_until(lambda: line.serves("one", "two"), "it ended")
    assert passes(line, "proxy_pass http://shop.gray")()
    assert not line.events("quarantined")


def test_a_location_of_http_keeps_its_service_from_tcp(line: Edge) -> None:
    """Its requests would have nowhere to go, so nginx refuses that and names the file; what was served is served on."""
    put(line, CANARY)
    line.up()
    wait_until(passes(line, "proxy_pass http://$gray_shop"), "the policy is adopted")
    wait_until(lambda: line.serves("one") and asked(line) == "two", "and served")
    put(line, f"{SHOP}protocol: tcp\n")
    (found,) = wait_until(lambda: line.events("quarantined"), "the service is held back")
    assert (found["service"], "snippets/pass/shop.conf" in found["reason"]) == ("shop", True), found
    assert asked(line) == "two"
    assert passes(line, "proxy_pass http://$gray_shop")(), "the pass of the object that is served"
    put(line, SHOP)
    wait_until(lambda: asked(line) == "one", "mended, it is followed")


def test_a_service_whose_line_is_still_there_is_not_forgotten(line: Edge) -> None:
    line.configure(watch='services = ["sho*"]')
    line.up()
    wait_until(lambda: line.serves("one", "two"), "all instances serve")
    line.consul.deregister("one")
    wait_until(lambda: line.serves("two"), "one instance is left")
    line.consul.deregister("two")
    wait_until(lambda: (line.status() or {})["consul"]["services_watched"] == 0, "it is followed no more")
    path = line.nginx.state_dir / "snippets" / "pass" / "shop.conf"
    in_use = line.cli("forget", "shop")
    assert (in_use.returncode, str(path) in in_use.stderr) == (1, True), in_use.stderr
    assert line.serves("two"), "the last known instance stays"
    line.nginx.locations = "location / { return 204; }"
    line.nginx.write_conf()
    gone = line.cli("forget", "shop")
    assert gone.returncode == 0, gone.stderr
    assert not path.exists()


def test_a_pass_that_nginx_refuses_is_its_services_fault(line: Edge) -> None:
    """By the file that nginx names: nothing is halved to find out."""
    folder = line.folder / "templates"
    folder.mkdir()
    line.configure(watch='services = ["shop", "stock"]', top=f'templates_dir = "{folder}"')
    line.up()
    wait_until(lambda: line.serves("one", "two"), "all instances serve")
    broken = '{{ snippet }}{% if target.text == "shop.gray" %}no_such_directive on;{% endif %}proxy_pass http://x;\n'
    (folder / "pass.conf.j2").write_text(broken, encoding="utf-8")
    line.hang_up()
    (found,) = wait_until(lambda: line.events("quarantined"), "the service is held back")
    assert (found["service"], "no_such_directive" in found["reason"]) == ("shop", True), found
    manifests = [path.read_text(encoding="utf-8") for path in line.nginx.state_dir.glob("generations/*/manifest.json")]
    assert not [one for one in manifests if "looking for the culprit" in one]
    assert line.serves("one", "two")
    (folder / "pass.conf.j2").unlink()
    line.hang_up()
    wait_until(lambda: line.events("quarantine_left"), "mended, it is followed")

"""An edge node on a machine of its own: Consul, nginx and grayctl installed as docs/systemd.md says."""

import json
import re
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from tests.support.consul import REPOSITORY
from tests.support.machine import Machine
from tests.support.process import wait_until

UNITS = REPOSITORY / "systemd"
_SHOP = {"a": 9001, "b": 9002}
# What Debian's nginx does, and what `nginx -t` needs a way out of a sandbox for: low ports, logs, a cache, pcre_jit.
_NGINX_CONF = """
user www-data;
worker_processes 2;
pid /run/nginx{suffix}.pid;
error_log /var/log/nginx/error{suffix}.log notice;
pcre_jit on;
{main}
events {{ worker_connections 256; }}
http {{
    access_log /var/log/nginx/access{suffix}.log;
    proxy_cache_path /var/cache/nginx/shop{suffix} keys_zone=shop:1m;
    include /var/lib/grayctl{suffix}/current/http.conf;
    server {{
        listen {port};
        location ~ "^/(old|new)-[0-9]+$" {{ return 204; }}
        location / {{ proxy_pass http://$gray_shop; }}
    }}
    {backends}
}}
"""
_BACKENDS = "\n".join(f'server {{ listen 127.0.0.1:{port}; return 200 "{name}\\n"; }}' for name, port in _SHOP.items())


class Node(Machine):
    """Everything is in its place and nothing is started."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        try:
            self._install()
        except BaseException:
            self.close()
            raise

    def _install(self) -> None:
        for unit in UNITS.glob("*.service"):
            self.write(f"/etc/systemd/system/{unit.name}", unit.read_text(encoding="utf-8"))
        for kind in ("sysusers.d", "tmpfiles.d"):
            self.write(f"/etc/{kind}/grayctl.conf", (UNITS / kind / "grayctl.conf").read_text(encoding="utf-8"))
        self.run("systemd-sysusers")
        self.run("systemd-tmpfiles", "--create", "grayctl.conf")
        for name in ("log", "lib", "cache"):
            self.path(f"/var/{name}/nginx").mkdir(parents=True)
        self.nginx_conf()
        self.write("/etc/grayctl/grayctl.toml", '[watch]\nservices = ["shop"]\n')
        self.write(
            "/etc/systemd/system/consul.service",
            "[Service]\nExecStart=/opt/consul/consul agent -dev -bind=127.0.0.1\n",
        )
        self.run("systemctl", "daemon-reload")

    def nginx_conf(self, instance: str = "", *, port: int = 80, main: str = "") -> None:
        """Write an nginx.conf: the machine's own, with the backends of the shop in it, or that of an instance."""
        suffix, backends = (f"-{instance}", "") if instance else ("", _BACKENDS)
        text = _NGINX_CONF.format(suffix=suffix, backends=backends, port=port, main=main)
        self.write(f"/etc/nginx/{instance or 'nginx'}.conf", text)

    def drop_in(self, text: str) -> None:
        """Add to grayctl.service."""
        self.write("/etc/systemd/system/grayctl.service.d/test.conf", text)
        self.run("systemctl", "daemon-reload")

    def up(self) -> None:
        """Start all three: when grayctl's start is over, both instances of the shop serve."""
        self.beside()
        self.register()
        self.run("systemctl", "start", "grayctl")
        assert self.shares() == {"a": 30, "b": 10}, "three to one"

    def beside(self) -> None:
        """Start nginx, with what `grayctl init` makes."""
        self.run("grayctl", "init", "--service", "shop")
        self.run("systemctl", "start", "nginx")

    def register(self) -> None:
        """Start Consul, and register both instances of the shop."""
        self.run("systemctl", "start", "consul")
        wait_until(lambda: self.consul("GET", "/v1/catalog/nodes") not in {"", "[]"}, "Consul is ready", seconds=60)
        self.weigh("a", 3)
        self.weigh("b", 1)

    def consul(self, method: str, path: str, body: object = None) -> str:
        """A call to the agent; empty when it does not answer."""
        data = None if body is None else json.dumps(body).encode()
        return self.ask(urllib.request.Request(f"http://127.0.0.1:8500{path}", data=data, method=method))

    def weigh(self, name: str, weight: int) -> None:
        """Register an instance of the shop with this weight."""
        meta = {"version": "v1", "weight": str(weight)}
        body = {"Name": "shop", "ID": name, "Address": "127.0.0.1", "Port": _SHOP[name], "Meta": meta}
        self.consul("PUT", "/v1/agent/service/register", body)

    def shares(self, requests: int = 40, *, port: int = 80) -> Counter[str]:
        """Who answers how often; "" is a failed request."""
        return Counter(self.ask(f"http://127.0.0.1:{port}/").strip() for _ in range(requests))

    def status(self) -> dict[str, Any]:
        """`grayctl status --json`."""
        report: dict[str, Any] = json.loads(self.run("grayctl", "status", "--json").stdout)
        return report

    def main_pid(self, unit: str = "grayctl") -> int:
        """The unit's first process, as the machine counts."""
        return int(self.show(unit, "MainPID"))

    def of_process(self, field: str) -> str:
        """A line of the daemon's /proc/PID/status."""
        text = self.path(f"/proc/{self.main_pid()}/status").read_text(encoding="ascii")
        found: list[str] = re.findall(rf"^{field}:\t(.*)$", text, re.MULTILINE)
        return found[0]

"""SELinux and AppArmor: what confines nginx must let it read the generations and listen on our ports."""

from collections.abc import Callable, Iterator

from grayctl.advice.finding import Finding, How, Level, Rule
from grayctl.advice.machine import Machine
from grayctl.settings import listen_address

SELINUX = Rule(
    "selinux-state-dir", Level.WARNING, "confinement", "SELinux lets nginx read its own configuration and nothing else"
)
SELINUX_PORTS = Rule(
    "selinux-ports", Level.WARNING, "confinement", "SELinux lets nginx listen on the ports of web servers and no others"
)
SELINUX_CONNECT = Rule(
    "selinux-connect",
    Level.WARNING,
    "confinement",
    "SELinux keeps nginx from connecting to instances: every answer is 502",
)
APPARMOR = Rule(
    "apparmor-nginx", Level.WARNING, "confinement", "AppArmor lets nginx read what its profile names and nothing else"
)

_READABLE = ("httpd_config_t", "httpd_sys_content_t", "etc_t")


def selinux(machine: Machine) -> Iterator[Finding]:
    """The labels of the state directory and of our ports; what already works needs none."""
    if machine.selinux != "enforcing":
        return
    state_dir, nginx = machine.settings.state_dir, machine.settings.nginx
    if not any(f":{kind}:" in f"{machine.label}:" for kind in _READABLE):
        yield SELINUX.found(
            f"SELinux is enforcing, and {state_dir} has the label {machine.label or 'of no web server'}",
            how=How.RUN,
            advice=f"semanage fcontext -a -t httpd_config_t '{state_dir}(/.*)?'\nrestorecon -R {state_dir}",
            where=state_dir,
        )
    if not machine.marker:
        marker, refuse = listen_address(nginx.marker)[1], listen_address(nginx.refuse)[1]
        yield SELINUX_PORTS.found(
            f"SELinux is enforcing, and nothing answers yet on nginx.marker ({marker}) and nginx.refuse ({refuse})",
            how=How.RUN,
            advice=f"semanage port -a -t http_port_t -p tcp {marker}\n"
            f"semanage port -a -t http_port_t -p tcp {refuse}-{refuse + 3}",
        )
    if not machine.may_connect:
        yield SELINUX_CONNECT.found(
            "SELinux is enforcing, and httpd_can_network_connect is off",
            how=How.RUN,
            advice="setsebool -P httpd_can_network_connect on",
        )


def apparmor(machine: Machine) -> Iterator[Finding]:
    """A profile of nginx names the state directory."""
    state_dir = machine.settings.state_dir
    for profile in machine.apparmor:
        if f"{state_dir}/" not in machine.apparmor_text:
            name = profile.strip("/").replace("/", ".")
            yield APPARMOR.found(
                f"AppArmor enforces the profile {profile}, which does not name {state_dir}",
                how=How.RUN,
                advice=f"echo '{state_dir}/** r,' >> /etc/apparmor.d/local/{name}\n"
                f"apparmor_parser -r /etc/apparmor.d/{name}",
            )


JUDGES: tuple[Callable[[Machine], Iterator[Finding]], ...] = (selinux, apparmor)

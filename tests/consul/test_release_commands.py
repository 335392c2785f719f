"""`grayctl release apply|get|list|diff|history|rollback|delete` and `grayctl audit` against a real Consul."""

import getpass
import json
import os
import pty
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from grayctl.policy.live import revision_of
from grayctl.policy.wire import known_keys
from tests.support.consul import ACL_CONFIG, ACL_TOKEN, Consul, MakeConsul
from tests.support.process import clean_env

ROOT = Path(__file__).parents[2]
ENVIRONMENT = clean_env({"PYTHONPATH": str(ROOT)})  # the commands run in a folder of their own
FIVE = "service: {service}\nstable: v1\nidentity: [{{header: X-User-ID}}]\ntraffic: {{v2: {share}}}\n"


@dataclass
class Desk:
    """Where somebody works who releases: a folder, settings, and the service's name."""

    folder: Path
    consul: Consul
    prefix: str
    service: str

    def __post_init__(self) -> None:
        text = f'[consul]\naddress = "{self.consul.address}"\nprefix = "{self.prefix}"\n'
        (self.folder / "grayctl.toml").write_text(text, encoding="utf-8")

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "grayctl", "--config", str(self.folder / "grayctl.toml"), *arguments]

    def run(self, *arguments: str, stdin: str = "", code: int = 0) -> str:
        """What a command said; it must end with `code`."""
        done = subprocess.run(
            self.command(*arguments), input=stdin, capture_output=True, text=True, timeout=60, check=False,
            env=ENVIRONMENT, cwd=self.folder,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json"))

    def policy(self, share: float = 5, service: str = "", more: str = "") -> str:
        """A file with a policy; its name."""
        name = f"{service or self.service}.yaml"
        text = FIVE.format(service=service or self.service, share=share) + more
        (self.folder / name).write_text(text, encoding="utf-8")
        return name

    def stored(self, name: str) -> bytes:
        return self.consul.get(f"{self.prefix}/{name}") or b""


@pytest.fixture
def desk(tmp_path: Path, consul: Consul, unique: str) -> Desk:
    return Desk(tmp_path, consul, unique, f"{unique}-shop")


def test_apply_shows_what_changes_for_whom_and_what_nginx_reads_and_writes_it(desk: Desk) -> None:
    for number in (1, 2):
        desk.consul.register(desk.service, f"{desk.service}-{number}", f"10.0.0.{number}", 80, version=f"v{number}")
    file = desk.policy()
    shown = desk.run("release", "apply", file, "--dry-run")
    assert "the release is new: v1 gets every request that nothing else claims" in shown
    assert "  traffic: v2 5% of all users" in shown
    assert '|      5.00% "traffic v2";' in shown.replace("| +", "|  ")
    assert desk.stored(f"releases/{desk.service}") == b""
    assert desk.run("release", "list") == "there are no releases; `grayctl release apply FILE` makes one\n"

    done = desk.run("release", "apply", file, "--yes", "--reason", "begin")
    text = (desk.folder / file).read_bytes()
    assert f"{desk.service}: version 1 ({revision_of(text)}), trace " in done
    assert desk.stored(f"releases/{desk.service}") == text
    assert json.loads(desk.stored(f"live/{desk.service}"))["ring"] == [["v2", 500, True]]
    assert "5% of all users move from v1 to v2" in desk.run("release", "apply", desk.policy(10), "--yes")
    assert json.loads(desk.stored(f"live/{desk.service}"))["ring"] == [["v2", 1000, True]]
    assert "stands like this already" in desk.run("release", "apply", file, "--yes")
    assert [one["act"]["reason"] for one in desk.json("release", "history", desk.service)] == ["begin", ""]


def test_a_warning_of_the_lint_is_a_note(desk: Desk) -> None:
    desk.consul.register(desk.service, desk.service, "10.0.0.1", 80, version="v1")
    routes = "routes: [{name: beta, match: {identity: {in_list: beta}}, to: v1}]\n"
    shown = desk.run("release", "apply", desk.policy(more=routes), "--dry-run")
    assert "traffic.v2: warning: 'v2' has no healthy instance" in shown
    assert "beta" in shown.partition("note: ")[2]


def test_what_stands_behind_a_long_list_is_shown_too(desk: Desk) -> None:
    for version in ("v1", "v2"):
        desk.consul.register(desk.service, f"{desk.service}-{version}", "10.0.0.1", 80, version=version)
    users = desk.folder / "users.txt"
    users.write_text("".join(f"u{number}\n" for number in range(500)), encoding="utf-8")
    desk.run("list", "put", "users", users.name)
    routes = "routes: [{name: on-the-list, match: {identity: {in_list: users}}, to: v2}]\n"
    said = desk.run("release", "apply", desk.policy(more=routes), "--dry-run")
    before, cut, behind = said.partition(" lines more ...")
    assert ("u1" in before, bool(cut), "on-the-list" in behind, "u300" in said) == (True, True, True, False)


def test_a_rollback_to_what_stands_says_so(desk: Desk) -> None:
    desk.run("release", "apply", desk.policy(), "--yes")
    assert f"{desk.service}: stands like this already" in desk.run("release", "rollback", desk.service, "1")


def test_nothing_is_written_when_any_policy_is_refused(desk: Desk) -> None:
    """Every problem of every file is told, with file and line."""
    files = [
        desk.policy(),
        desk.policy(101, f"{desk.service}-b"),
        desk.policy(service=f"{desk.service}-c", more="x: 1\n"),
    ]
    said = desk.run("release", "apply", *files, "--yes", code=1)
    assert f"{files[1]}:4" in said
    assert f"{files[2]}:5" in said
    twice = desk.folder / "again.yaml"
    twice.write_text((desk.folder / files[0]).read_text(encoding="utf-8"), encoding="utf-8")
    said = desk.run("release", "apply", files[0], "again.yaml", "--yes", code=1)
    assert f"again.yaml:1: service: '{desk.service}' is the service of {files[0]} too. Keep one of the two" in said
    assert desk.json("release", "list") == []


def test_a_directory_and_standard_input(desk: Desk) -> None:
    (desk.folder / "empty").mkdir()
    assert "there is no file whose name ends in" in desk.run("release", "apply", "empty", "--yes", code=2)
    assert "nowhere.yaml: cannot be read" in desk.run("release", "apply", "nowhere.yaml", "--yes", code=2)
    text = FIVE.format(service=f"{desk.service}-in", share=5)
    desk.run("release", "apply", "-", "--yes", stdin=text)
    for number in range(3):
        desk.policy(service=f"{desk.service}-{number}")
    (desk.folder / "notes.txt").write_text("no policy", encoding="utf-8")
    (desk.folder / f"{desk.service}-0.yaml").rename(desk.folder / "first.json")
    done = desk.json("release", "apply", ".", "--yes")
    assert sorted(one["service"] for one in done["releases"]) == [f"{desk.service}-{number}" for number in range(3)]
    assert all(one["version"] == 1 for one in done["releases"])
    assert len(desk.json("release", "list")) == 4


def test_what_no_transaction_holds_is_said_and_written_in_portions(desk: Desk) -> None:
    for number in range(18):
        desk.policy(service=f"{desk.service}-{number:02d}")
    done = desk.run("release", "apply", ".", "--yes")
    assert "18 policies are 2 transactions: each is all or nothing, together they are not" in done
    assert done.count(": version 1 (") == 18
    acts = desk.json("audit")
    assert len({one["act"]["trace_id"] for one in acts}) == 1
    assert len(acts) == 18


def test_without_a_terminal_it_does_not_ask_but_wants_yes(desk: Desk) -> None:
    assert "there is no terminal to ask on: add --yes" in desk.run("release", "apply", desk.policy(), code=2)
    assert "--json goes with --yes" in desk.run("release", "apply", desk.policy(), "--json", code=2)
    assert desk.json("release", "list") == []


@pytest.mark.parametrize("answer", ["y", "n"])
def test_whoever_is_asked_decides_and_what_changed_meanwhile_is_a_conflict(desk: Desk, answer: str) -> None:
    """While somebody reads the question, somebody else applies another policy: nothing is lost."""
    desk.run("release", "apply", desk.policy(), "--yes")
    command = desk.command("release", "apply", desk.policy(10))
    lead, follow = pty.openpty()
    with subprocess.Popen(
        command, stdin=follow, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=ENVIRONMENT, cwd=desk.folder
    ) as process:
        assert process.stdout is not None
        said = b""
        while b"[y/N]" not in said:
            said += os.read(process.stdout.fileno(), 4096)
        if answer == "y":
            desk.run("release", "apply", desk.policy(7), "--yes", "--reason", "faster")
        os.write(lead, f"{answer}\n".encode())
        said += process.stdout.read()
        assert process.wait(timeout=30) == 1
    os.close(lead)
    os.close(follow)
    if answer == "y":
        assert b"not written: " in said
        assert b"somebody else changed this meanwhile: look at it, then try again" in said
        assert b"v2: 7" in desk.stored(f"releases/{desk.service}")
    else:
        assert b"v2: 5" in desk.stored(f"releases/{desk.service}")


def test_an_edit_by_hand_and_a_damaged_record_are_noted(desk: Desk) -> None:
    desk.run("release", "apply", desk.policy(), "--yes")
    key = f"{desk.prefix}/releases/{desk.service}"
    desk.consul.put(key, FIVE.format(service=desk.service, share=9))
    assert desk.json("release", "list")[0]["note"] == "edited by hand, not in force yet"
    assert "note: what stands in Consul was edited by hand" in desk.run("release", "apply", desk.policy(), "--dry-run")
    desk.consul.put(key, "stable: [")
    note = desk.json("release", "list")[0]["note"]
    assert note.startswith(f"what was in force stays: {key}:1")
    assert "what stands in Consul is no policy" in desk.run("release", "apply", desk.policy(6), "--dry-run")
    desk.consul.put(f"{desk.prefix}/live/{desk.service}", "{}")
    done = desk.json("release", "apply", desk.policy(6), "--yes")
    assert "users are drawn anew" in done["releases"][0]["notes"][0]
    assert [one["action"] for one in desk.json("release", "history", desk.service)] == ["apply", "edit", "apply"]
    assert desk.json("release", "list")[0]["note"] == ""
    desk.consul.delete(key)
    assert "the policy's key is gone" in desk.json("release", "list")[0]["note"]


def test_keys_that_a_live_nodes_grayctl_does_not_know_are_refused(desk: Desk) -> None:
    """A silent node says nothing about what it will be when it comes back; a live one would keep what it serves."""
    keys = sorted(known_keys() - {"when_empty"})
    new = {"node": "edge-new", "id": "1", "version": "9.0", "policy_keys": sorted(known_keys())}
    old = {"node": "edge-old", "id": "2", "version": "0.9", "policy_keys": keys}
    desk.consul.put(
        f"{desk.prefix}/nodes/edge-silent", json.dumps({"node": "edge-silent", "id": "3", "version": "0.1"})
    )
    session = desk.consul.call("PUT", "/v1/session/create", {"Behavior": "delete"})["ID"]
    for node in (new, old):
        desk.consul.call("PUT", f"/v1/kv/{desk.prefix}/nodes/{node['node']}?acquire={session}", node)
    desk.run("release", "apply", desk.policy(), "--yes")
    said = desk.run("release", "apply", desk.policy(more="when_empty: reject\n"), "--yes", code=1)
    assert "node edge-old: its grayctl 0.9 does not know when_empty\nnothing is written: upgrade grayctl there" in said
    assert "edge-new" not in said
    desk.consul.delete(f"{desk.prefix}/nodes/edge-old")
    desk.run("release", "apply", desk.policy(more="when_empty: reject\n"), "--yes")
    desk.run("release", "apply", desk.policy(), "--yes")
    desk.consul.call("PUT", f"/v1/kv/{desk.prefix}/nodes/edge-old?acquire={session}", old)
    assert "does not know when_empty" in desk.run("release", "rollback", desk.service, "2", "--yes", code=1)
    desk.run("release", "delete", desk.service, "--yes")
    desk.consul.call("PUT", f"/v1/session/destroy/{session}")


def test_get_prints_the_policy_as_it_was_written(desk: Desk) -> None:
    file = desk.policy(more="# the end, without a newline")
    desk.run("release", "apply", file, "--yes")
    text = (desk.folder / file).read_text(encoding="utf-8")
    assert desk.run("release", "get", desk.service) == text + "\n"
    whole = desk.json("release", "get", desk.service)
    assert (whole["policy"], whole["in_force"], whole["live"]["stable"]) == (text, True, "v1")
    assert "has no release. See `grayctl release list`" in desk.run("release", "get", "absent", code=1)


def test_diff_compares_versions_files_and_what_stands(desk: Desk) -> None:
    for share in (5, 10):
        desk.run("release", "apply", desk.policy(share), "--yes")
    grown = ["traffic: v2 5% -> v2 10% of all users", "5% of all users move from v1 to v2"]
    assert desk.json("release", "diff", desk.service, "1")["changes"] == grown
    assert desk.json("release", "diff", desk.service, "1", "2")["changes"] == grown
    shrunk = desk.run("release", "diff", desk.service, desk.policy(5))
    assert "5% of all users move from v2 to v1" in shrunk
    assert "-traffic: {v2: 10}\n+traffic: {v2: 5}" in shrunk
    assert desk.run("release", "diff", desk.service, "1", f"{desk.service}.yaml") == "nothing changes for anybody\n"
    assert "version 9 is kept no more, or never was" in desk.run("release", "diff", desk.service, "9", code=1)
    assert "new: v1 gets every request" in desk.run("release", "diff", "absent", desk.policy(service="absent"))


def test_history_rollback_delete_and_audit(desk: Desk) -> None:
    for share in (5, 10):
        desk.run("release", "apply", desk.policy(share), "--yes")
    ring = json.loads(desk.stored(f"live/{desk.service}"))["ring"]
    said = desk.run("release", "rollback", desk.service, "1", "--yes")
    assert "5% of all users move from v2 to v1" in said
    assert f"{desk.service}: version 3 (" in said
    assert desk.json("release", "rollback", desk.service, "1", "--yes")["unchanged"] == [desk.service]
    desk.run("release", "rollback", desk.service, "2", "--yes", "--reason", "faster again")
    assert json.loads(desk.stored(f"live/{desk.service}"))["ring"] == ring, "the same users as before"

    assert "the release ends" in desk.run("release", "delete", desk.service, "--yes", "--reason", "over")
    assert desk.json("release", "list") == []
    assert "has no release" in desk.run("release", "delete", desk.service, "--yes", code=1)
    assert "version 5 is the end of the release" in desk.run("release", "rollback", desk.service, "5", "--yes", code=1)
    assert "version 9 is kept no more" in desk.run("release", "rollback", desk.service, "9", "--yes", code=1)
    desk.run("release", "rollback", desk.service, "4", "--yes")
    assert desk.stored(f"releases/{desk.service}").endswith(b"traffic: {v2: 10}\n")

    rows = [line.split() for line in desk.run("audit", desk.service).splitlines()[1:]]
    assert [row[3] for row in rows] == ["apply", "apply", "rollback", "rollback", "delete", "rollback"]
    assert {row[5] for row in rows} == {getpass.getuser()}
    history = desk.run("release", "history", desk.service).splitlines()
    assert history[0].split() == ["VERSION", "WHEN", "WHAT", "REVISION", "WHO", "WHY"]
    assert history[5].split()[3:6] == ["delete", "-", getpass.getuser()]
    assert "has no history" in desk.run("release", "history", "absent", code=1)


def test_a_token_that_may_only_read_is_told_which_keys(tmp_path: Path, make_consul: MakeConsul) -> None:
    agent = make_consul(token=ACL_TOKEN, config=ACL_CONFIG)
    desk = Desk(tmp_path, agent, "grayctl", "shop")
    roles = ROOT / "examples" / "acl"
    for role in ("releaser", "viewer"):
        token = tmp_path / f"{role}.token"
        token.touch(mode=0o600)
        token.write_text(agent.make_token((roles / f"{role}.hcl").read_text(encoding="utf-8"))[0], encoding="utf-8")
        text = f'[consul]\naddress = "{agent.address}"\ntoken_file = "{token}"\n'
        (tmp_path / "grayctl.toml").write_text(text, encoding="utf-8")
        if role == "releaser":
            desk.run("release", "apply", desk.policy(), "--yes")
            denied = desk.run("release", "apply", desk.policy(service="shop-admin"), "--yes", code=1)
            assert "grayctl/releases/shop-admin: the token may not write this" in denied
    denied = desk.run("release", "apply", desk.policy(6), "--yes", code=1)
    assert "grayctl/live/shop, grayctl/releases/shop: the token may not write this. Use one that may" in denied
    assert desk.json("release", "list")[0]["traffic"] == "v2 5%"
    assert len(desk.json("audit", "shop")[0]["act"]["author"]) == 36, "the accessor of the releaser's token"

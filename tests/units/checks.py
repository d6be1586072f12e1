"""What an administrator does with the units, and what must come of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

from portico import __version__
from portico.lab import deployment, links, wait
from portico.lab.deployment import CLIENT, DNS_KEY, SERVER
from portico.lab.hosts import Host
from portico.lab.lab import Lab
from portico.lab.topology import CORP_DNS, CORP_DOMAIN, PUBLIC_DNS, dedicated
from tests.lab.helpers import APP4, APP6, reaches
from tests.units import root
from tests.units.machine import Machine
from tests.units.repack import repack
from tests.units.report import Report, need

GATEWAY, BALANCER, STORE, LOCATION = "portico-gateway", "portico-balancer", "portico-store", "portico-location"
TUNNEL, WITNESS = "portico-tunnel", "portico-witness"
UNITS = (SERVER, GATEWAY, BALANCER, STORE, LOCATION, CLIENT, TUNNEL, WITNESS)
SERVER_UNITS = (SERVER, GATEWAY, BALANCER, STORE, LOCATION)
NEWER = "0.2.0"
WORST = 2.0
"""The most that `systemd-analyze security` may say, of 10."""
REFUSED = re.compile(r"Permission denied|Operation not permitted|Read-only file system|status=31/SYS|Failed at step")
"""What a unit that takes too much away looks like in the journal."""


def install_program(machine: Machine, report: Report) -> None:
    """As docs/install.md says for a server without compilers; its libraries come from a directory, not from PyPI."""
    with report.check("packaging/install.sh installs the wheel, and systemd knows the units"):
        where = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": root.LIBRARIES}
        machine.run(f"{root.SOURCES}/packaging/install.sh", timeout=300.0, env=where)
        need(machine.output("portico", "--version").endswith(__version__), machine.output("portico", "--version"))
        known = machine.output("systemctl", "list-unit-files", "--no-legend", "--plain", "portico-*")
        need({line.split()[0] for line in known.splitlines()} == {f"{name}.service" for name in UNITS}, known)
        need(not machine.failed_units(), str(machine.failed_units()))
    with report.check("systemd has no complaint about a unit"):
        files = [f"/usr/local/lib/systemd/system/{name}.service" for name in UNITS]
        done = machine.run("systemd-analyze", "verify", "--man=no", *files, check=False, timeout=60.0)
        need(done.returncode == 0 and "portico" not in done.stderr, done.stderr)


def prepare(lab: Lab, machine: Machine) -> None:
    """What is on the disk of a machine before it is started for the first time."""
    computer = lab.topology.host(machine.name)
    machine.write("/etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {machine.name}\n::1 localhost ip6-localhost\n")
    machine.write("/etc/hostname", f"{machine.name}\n")
    units = machine.disk / "etc/systemd/system"
    # The client resolves with systemd-resolved, as DHCP would have set it up; the others with the file alone.
    if machine.name.startswith("client"):
        machine.write("/etc/systemd/resolved.conf.d/dhcp.conf", f"[Resolve]\nDNS={PUBLIC_DNS}\n")
        (machine.disk / "etc/resolv.conf").unlink(missing_ok=True)
        (machine.disk / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    else:
        (units / "systemd-resolved.service").symlink_to("/dev/null")
        machine.write("/etc/resolv.conf", "".join(f"nameserver {address}\n" for address in computer.nameservers))
    # docs/operate.md: the service of the package etcd-server is not used.
    (units / "etcd.service").symlink_to("/dev/null")


def state(machine: Machine, name: str) -> str:
    return machine.run("systemctl", "is-active", name, check=False).stdout.strip()


def active(machine: Machine, *names: str) -> None:
    """Waits until they run. Raises NeverHappened with their logs."""
    wait.until(
        f"{', '.join(names)} to run",
        lambda: all(state(machine, name) == "active" for name in names),
        timeout=60.0,
        interval=0.2,
        evidence=lambda: "\n".join(machine.log_tail(name, 25) for name in names if state(machine, name) != "active"),
    )


def main_pid(machine: Machine, name: str) -> int:
    return int(machine.output("systemctl", "show", "-P", "MainPID", name))


def refused(machine: Machine) -> list[str]:
    """Lines of the units' journals that name something a unit took away."""
    done = machine.run("journalctl", "-q", "--no-pager", "-o", "cat", "-u", "portico-*", check=False, timeout=60.0)
    return [line for line in done.stdout.splitlines() if REFUSED.search(line)]


def serving(machine: Machine, timeout: float = 90.0) -> None:
    def serves() -> bool:
        return machine.run("portico", "server", "status", check=False).returncode == 0

    evidence = lambda: machine.log_tail(SERVER, 30) + machine.log_tail(GATEWAY, 15)  # noqa: E731
    wait.until(f"{machine.name} to serve", serves, timeout=timeout, interval=0.5, evidence=evidence)


def reach_both(client: Machine, timeout: float = 120.0) -> None:
    for name in (APP4, APP6):
        wait.until(
            f"{name} to answer the client",
            lambda name=name: reaches(client, name),  # type: ignore[misc]
            timeout=timeout,
            interval=0.5,
            evidence=lambda: client.log_tail(CLIENT, 20) + client.log_tail(TUNNEL, 10),
        )


def run(lab: Lab, machines: dict[str, Machine], report: Report) -> None:
    first, second, client, witness = (machines[name] for name in ("da1", "da2", "client1", "mgmt"))
    for machine in machines.values():
        with report.check(f"{machine.name} boots with nothing failed"):
            need(not machine.failed_units(), str(machine.failed_units()))
    one_server(lab, first, report)
    remote_client(lab, first, client, report)
    exposure(first, report)
    trouble(first, client, report)
    cluster(lab, first, second, witness, client, report)
    upkeep(first, second, client, report)
    after_power_cut(lab, machines, report)
    uninstall(first, second, client, witness, report)


def one_server(lab: Lab, server: Machine, report: Report) -> None:
    with report.check("portico server install enables and starts the units of a server"):
        give_dns_key(lab, server)
        server.write("/root/lab.yaml", yaml.safe_dump(deployment.settings("da1"), sort_keys=False), 0o600)
        server.run("portico", "server", "install", "--file", "/root/lab.yaml", "--yes", timeout=180.0)
        active(server, *SERVER_UNITS)
        need(server.output("systemctl", "is-enabled", SERVER) == "enabled", "it is not enabled")
        serving(server)
    with report.check("the entrance listens"):
        deployment.wait_for_server(server)
    with report.check("packet path and store have accounts of their own and no capability"):
        for name in (GATEWAY, STORE, LOCATION):
            status = server.output("cat", f"/proc/{main_pid(server, name)}/status")
            need(re.search(r"^CapBnd:\s*0+$", status, re.MULTILINE), f"{name}: {status}")
            need(not re.search(r"^Uid:\s*0\s", status, re.MULTILINE), f"{name} is root")


def give_dns_key(lab: Lab, machine: Host) -> None:
    from portico.lab.services import bind

    text = (lab.host("dns").disk / bind.key_path(bind.SERVERS_KEY).lstrip("/")).read_text()
    machine.write(DNS_KEY, text, 0o600)


def remote_client(lab: Lab, server: Machine, client: Machine, report: Report) -> None:
    with report.check("the client's unit waits for an identity, and connects when it is enrolled"):
        client.run("systemctl", "enable", "--now", CLIENT, timeout=90.0)
        active(client, CLIENT, TUNNEL)
        client.run("portico", "client", "enrol", deployment.enrolment_token(server, "client1"), timeout=120.0)
        reach_both(client)
    with report.check("systemd-resolved routes the intranet's names to the tunnel, and no others"):
        links_of = client.output("resolvectl", "domain")
        need(f"~{CORP_DOMAIN}" in links_of or CORP_DOMAIN in links_of, links_of)
        need(re.search(r"Link \d+ \(portico\S*\):.*" + re.escape(CORP_DOMAIN), links_of), links_of)
        answer = client.output("resolvectl", "query", APP4)
        need("fd7c:1a2b:3c4d:7777:" in answer, answer)
        client.run("resolvectl", "query", "www.example.org")
        need("stub-resolv.conf" in client.output("readlink", "/etc/resolv.conf"), "the file was replaced")
    with report.check("inside, the namespaces are withdrawn from systemd-resolved; outside they come back"):
        move(lab, client, "corp", "10.0.0.70/24", CORP_DNS)
        wait.until("the client to be inside", lambda: says(client, "ConnectedLocally"), timeout=90.0, interval=0.5,
                   evidence=lambda: client.log_tail(CLIENT, 30))  # fmt: skip
        need(CORP_DOMAIN not in client.output("resolvectl", "domain"), client.output("resolvectl", "domain"))
        need(reaches(client, APP4), "app4 is not reached from inside")
        move(lab, client, "home1", "192.168.1.10/24", PUBLIC_DNS, "192.168.1.1")
        wait.until("the client to be outside", lambda: says(client, "ConnectedRemotely"), timeout=90.0, interval=0.5,
                   evidence=lambda: client.log_tail(CLIENT, 30))  # fmt: skip
        reach_both(client)


def says(client: Machine, status: str) -> bool:
    done = client.run("portico", "client", "status", "--json", check=False)
    return f'"{status}"' in done.stdout


def move(lab: Lab, client: Machine, network: str, address: str, resolver: str, router: str = "") -> None:
    """Another network, as DHCP there would set it up."""
    lab.cut("client1", "eth0")
    links.ip(lab.state, links.SWITCH, f"link set {links.port('client1', 'eth0')} master {network}")
    links.ip(lab.state, "client1", "addr flush dev eth0 scope global")
    lab.heal("client1", "eth0")
    routes = [f"route add default via {router}"] if router else []
    links.ip(lab.state, "client1", f"addr add {address} dev eth0", *routes)
    client.write("/etc/systemd/resolved.conf.d/dhcp.conf", f"[Resolve]\nDNS={resolver}\n")
    client.run("systemctl", "reload-or-restart", "systemd-resolved")


def exposure(machine: Machine, report: Report) -> None:
    with report.check(f"systemd-analyze security says less than {WORST} of every unit"):
        found = {}
        for name in UNITS:
            text = machine.output("systemd-analyze", "security", "--no-pager", f"{name}.service", timeout=60.0)
            found[name] = float(re.findall(r"Overall exposure level for \S+: ([0-9.]+)", text)[0])
        need(all(value < WORST for value in found.values()), str(found))
        print("        " + ", ".join(f"{name} {value}" for name, value in found.items()))


def trouble(server: Machine, client: Machine, report: Report) -> None:
    with report.check("drift of addresses, sysctls and the packet filter is repaired"):
        server.run("nft", "delete", "table", "inet", "portico")
        server.run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=0")
        wait.until(
            "both to be back",
            lambda: (
                server.run("nft", "list", "table", "inet", "portico", check=False).returncode == 0
                and server.output("sysctl", "-n", "net.ipv6.conf.all.forwarding") == "1"
            ),
            timeout=30.0,
            evidence=lambda: server.log_tail(SERVER, 30),
        )
    for name in (GATEWAY, LOCATION, SERVER):
        with report.check(f"{name} killed with -9 comes back by itself, and so does the client"):
            before = main_pid(server, name)
            server.run("kill", "-KILL", str(before))
            wait.until(f"another {name}", lambda name=name, before=before: main_pid(server, name) not in (0, before))  # type: ignore[misc]
            serving(server)
            active(server, *SERVER_UNITS)
            reach_both(client)
    for name in (TUNNEL, CLIENT):
        with report.check(f"{name} killed with -9 comes back by itself"):
            before = main_pid(client, name)
            client.run("kill", "-KILL", str(before))
            wait.until(f"another {name}", lambda name=name, before=before: main_pid(client, name) not in (0, before))  # type: ignore[misc]
            active(client, CLIENT, TUNNEL)
            reach_both(client)
    for machine, name in ((server, SERVER), (client, CLIENT)):
        with report.check(f"{name} that stands still is started again by the watchdog"):
            found_by_watchdog(machine, name)
            reach_both(client)
    with report.check("systemctl restart of server and client"):
        server.run("systemctl", "restart", SERVER, timeout=120.0)
        active(server, *SERVER_UNITS)
        serving(server)
        client.run("systemctl", "restart", CLIENT, timeout=120.0)
        active(client, CLIENT, TUNNEL)
        reach_both(client)
    with report.check("systemctl stop ends every process and gives the kernel back"):
        server.run("systemctl", "stop", SERVER, timeout=120.0)
        for name in SERVER_UNITS:
            need(state(server, name) == "inactive", name)
        need(server.run("nft", "list", "table", "inet", "portico", check=False).returncode != 0, "the table is there")
        need("portico" not in server.output("ip", "-br", "link"), server.output("ip", "-br", "link"))
        server.run("systemctl", "start", SERVER, timeout=120.0)
        serving(server)
        reach_both(client)


def found_by_watchdog(machine: Machine, name: str) -> None:
    """Stops the main process of a unit whose watchdog is as quick as a test wants it."""
    dropin = f"/run/systemd/system/{name}.service.d/quick.conf"
    machine.run("mkdir", "-p", dropin.rpartition("/")[0])
    machine.run("tee", dropin, input_text="[Service]\nWatchdogSec=4\nTimeoutAbortSec=2\n")
    machine.run("systemctl", "daemon-reload", timeout=60.0)
    machine.run("systemctl", "restart", name, timeout=120.0)
    before = main_pid(machine, name)
    machine.run("kill", "-STOP", str(before))
    wait.until(f"another {name}", lambda: main_pid(machine, name) not in (0, before), timeout=60.0)
    active(machine, name)
    machine.run("rm", dropin)
    machine.run("systemctl", "daemon-reload", timeout=60.0)
    machine.run("systemctl", "restart", name, timeout=120.0)


def cluster(lab: Lab, first: Machine, second: Machine, witness: Machine, client: Machine, report: Report) -> None:
    def converged(names: set[str]) -> bool:
        found = deployment.cluster_status(first)
        up = {item["name"] for item in found.get("servers", ()) if item["state"] in ("Converged", "Default")}
        return bool(found.get("converged")) and up == names

    def convergence(*names: str) -> None:
        wait.until(f"{', '.join(names)} to converge", lambda: converged({*names}), timeout=90.0, interval=0.5,
                   evidence=lambda: first.log_tail(SERVER, 20) + first.log_tail(BALANCER, 20))  # fmt: skip

    with report.check("portico lb enable: the balancer's unit loads its filter"):
        first.run("portico", "lb", "enable", *_dedicated(1), "--yes", timeout=120.0)
        convergence("da1")
        used = deployment.cluster_status(first)["filter"]
        script = "from portico.balancing.nlb.choose import choose; print(choose().name)"
        need(used == first.output("/opt/portico/bin/python", "-P", "-c", script), f"it uses {used}")
        print(f"        filter: {used}")
        reach_both(client)
    with report.check("a second server joins with a token, and serves under its units"):
        made = first.json("portico", "lb", "add", "da2", *_dedicated(2), "--yes", "--json", timeout=60.0)
        interfaces = ["--internet-interface", "eth0", "--internal-interface", "eth1"]
        second.run("portico", "server", "join", made["token"], *interfaces, "--yes", timeout=180.0)
        second.run("portico", "server", "start", timeout=120.0)
        active(second, *SERVER_UNITS)
        convergence("da1", "da2")
    with report.check("a file that the settings name comes to the other server when it changes"):
        first.run("sh", "-c", f"echo '# looked at' >> {DNS_KEY}")
        digest = first.output("sha256sum", DNS_KEY)
        wait.until("da2 to have it", lambda: second.output("sha256sum", DNS_KEY) == digest, timeout=60.0,
                   evidence=lambda: second.log_tail(SERVER, 20))  # fmt: skip
    with report.check("a witness installs its unit, and etcd runs in the units of store and witness"):
        first.run("portico", "cluster", "store", "move", "etcd", "--yes", timeout=240.0)
        added = first.json("portico", "cluster", "store", "witness", "add", "witness1", "--yes", "--json", timeout=60.0)
        witness.run("portico", "witness", "install", added["token"], "--yes", timeout=240.0)
        active(witness, WITNESS)
        three_members(first, witness)
        first.run("portico", "settings", "set", "dns64.latency_milliseconds=10", "--yes", timeout=120.0)


def _store(host: Machine) -> dict[str, object]:
    done = host.run("portico", "cluster", "store", "status", "--json", check=False, timeout=60.0)
    try:
        found = json.loads(done.stdout)
    except ValueError:
        return {"error": done.stderr}
    return found if isinstance(found, dict) else {}


def three_members(server: Machine, witness: Machine) -> None:
    wait.until(
        "three members of etcd to answer",
        lambda: _members(server) == 3,
        timeout=120.0,
        interval=1.0,
        evidence=lambda: f"{_store(server)}\n{server.log_tail(STORE, 20)}\n{witness.log_tail(WITNESS, 20)}",
    )


def _members(host: Machine) -> int:
    members = _store(host).get("members", [])
    assert isinstance(members, list)
    return sum(item["state"] in ("votes", "leads") for item in members)


def _dedicated(number: int) -> list[str]:
    found = dedicated(number)
    options = [f"--internet-dedicated-address={address}" for address in found["eth0"]]
    return options + [f"--internal-dedicated-address={address}" for address in found["eth1"]]


def _alerts(host: Machine) -> str:
    """What the journal got from the syslog socket; the units' own lines come another way."""
    command = "journalctl", "-q", "--no-pager", "-o", "cat", "_TRANSPORT=syslog", "-g", "portico"
    return host.run(*command, check=False).stdout  # status 1: nothing there


def upkeep(first: Machine, second: Machine, client: Machine, report: Report) -> None:
    with report.check("backups are written by the unit, below its state directory"):
        first.run("sh", "-c", "umask 077; echo correct horse > /etc/portico/backup.pass")
        changes = ("backup.state=enabled", "backup.directory=/var/lib/portico/backup",
                   "backup.passphrase_file=/etc/portico/backup.pass")  # fmt: skip
        first.run("portico", "settings", "set", *changes, "--yes", timeout=120.0)
        made = first.json("portico", "backup", "make", "--json", timeout=120.0)
        need(first.run("test", "-s", f"/var/lib/portico/backup/{made['file']}", check=False).returncode == 0, str(made))
    with report.check("alerts reach the journal by /dev/log"):
        told = ("alerts.syslog=[{address: 'unix:/dev/log'}]", "alerts.hold_down_seconds=0")
        first.run("portico", "settings", "set", *told, "--yes", timeout=120.0)
        second.run("systemctl", "stop", SERVER, timeout=120.0)
        wait.until("the alert that a server is gone", lambda: "SERVER_" in _alerts(first), timeout=60.0, interval=1.0)
        second.run("systemctl", "start", SERVER, timeout=120.0)
        serving(second)
    with report.check("portico server upgrade exchanges the program of each server under systemd"):
        for machine in (second, first):
            new = repack(root.wheel(), NEWER, Path(machine.disk / "root"))
            machine.run("portico", "server", "upgrade", "--wheel", f"/root/{new.name}", "--drain-timeout", "5", "--yes",
                        timeout=420.0)  # fmt: skip
            active(machine, *SERVER_UNITS)
            status = machine.json("portico", "server", "status", "--json")
            need((status["version"], status["serving"]) == (NEWER, True), str(status["version"]))
        reach_both(client)


def after_power_cut(lab: Lab, machines: dict[str, Machine], report: Report) -> None:
    first, second, client, witness = (machines[name] for name in ("da1", "da2", "client1", "mgmt"))
    with report.check("no unit was refused anything that it asked for"):
        found = {name: lines for name, machine in machines.items() if (lines := refused(machine))}
        need(not found, "\n".join(f"{name}: {line}" for name, lines in found.items() for line in lines[:8]))
    with report.check("after a power cut of everything, everything comes back by itself"):
        for machine in machines.values():
            machine.power_cut()
            lab.restart(machine.name)
        for machine in machines.values():
            machine.power_on()
            need(not machine.failed_units(), f"{machine.name}: {machine.failed_units()}")
        for machine in (first, second):
            active(machine, *SERVER_UNITS)
            serving(machine)
        active(witness, WITNESS)
        active(client, CLIENT, TUNNEL)
        reach_both(client)
        three_members(first, witness)
    with report.check("after a reboot of a server and of the client, too"):
        for machine in (first, client):
            machine.shut_down("reboot")
            lab.restart(machine.name)
            machine.power_on()
        serving(first)
        active(client, CLIENT, TUNNEL)
        reach_both(client)


def uninstall(first: Machine, second: Machine, client: Machine, witness: Machine, report: Report) -> None:
    with report.check("the witness is taken off: no unit, no account, no data"):
        first.run("portico", "cluster", "store", "move", "sqlite", "--yes", timeout=240.0)
        witness.run("portico", "witness", "uninstall", "--yes", timeout=90.0)
        need(witness.run("test", "-e", "/var/lib/portico-witness", check=False).returncode != 0, "its data is there")
        need(state(witness, WITNESS) == "inactive", "it runs")
    with report.check("the client is taken off: name resolution and packet filter as before"):
        client.run("portico", "client", "unenrol", "--yes", timeout=90.0)
        client.run("systemctl", "disable", "--now", CLIENT, timeout=90.0)
        need("portico" not in client.output("ip", "-br", "link"), client.output("ip", "-br", "link"))
        need(CORP_DOMAIN not in client.output("resolvectl", "domain"), client.output("resolvectl", "domain"))
        need("portico" not in client.output("nft", "list", "tables"), client.output("nft", "list", "tables"))
        need(state(client, TUNNEL) == "inactive", "the tunnel runs")
        _program_removed(client)
    restored_after_purge(first, report)
    with report.check("a server is taken off with --purge: nothing is left but the journal"):
        first.run("portico", "server", "stop", "--yes", timeout=120.0)
        first.run("portico", "server", "uninstall", "--purge", "--yes", timeout=120.0)
        for name in SERVER_UNITS:
            need(state(first, name) == "inactive", f"{name} runs")
        for path in ("/var/lib/portico/server", "/var/log/portico"):
            need(first.run("test", "-e", path, check=False).returncode != 0, f"{path} is there")
        need("portico" not in first.output("nft", "list", "tables"), first.output("nft", "list", "tables"))
        need("portico" not in first.output("ip", "-br", "link"), first.output("ip", "-br", "link"))
        _program_removed(first)


def restored_after_purge(server: Machine, report: Report) -> None:
    secret, file = "/etc/portico/backup.pass", "/root/portico.backup"
    unit = f"/usr/local/lib/systemd/system/{SERVER}.service"
    with report.check("a restore refuses a machine without units, and starts a server that was purged"):
        server.run("portico", "lb", "remove", "da2", "--yes", timeout=120.0)
        server.run("portico", "lb", "disable", "--yes", timeout=120.0)
        server.run("portico", "backup", "create", file, "--passphrase-file", secret, timeout=120.0)
        server.run("portico", "server", "stop", "--yes", timeout=120.0)
        server.run("portico", "server", "uninstall", "--purge", "--yes", timeout=120.0)
        enabled = server.run("systemctl", "is-enabled", SERVER, check=False).stdout.strip()
        need(enabled == "disabled", f"the unit is {enabled}")
        server.run("mv", unit, "/root/unit")
        server.run("systemctl", "daemon-reload")
        restore = ("portico", "restore", file, "--passphrase-file", secret)
        refused = server.run(*restore, check=False, timeout=60.0)
        need(refused.returncode == 6 and "packaging/install.sh" in refused.stderr, refused.stderr + refused.stdout)
        need(server.run("test", "-e", "/var/lib/portico/server", check=False).returncode != 0, "it made the state")
        server.run("mv", "/root/unit", unit)
        server.run("systemctl", "daemon-reload")
        said = server.output(*restore, timeout=60.0)
        need(f"systemctl enable --now {SERVER}" in said, said)
        server.run("systemctl", "enable", "--now", SERVER, timeout=120.0)
        serving(server)


def _program_removed(machine: Machine) -> None:
    machine.run(f"{root.SOURCES}/packaging/install.sh", "--remove", timeout=60.0)
    left = machine.run("find", "/usr/local", "/opt", "/etc/systemd", "/run", "-xdev", "-name", "*portico*").stdout
    need(not left.strip(), left)
    known = machine.run("systemctl", "list-unit-files", "--no-legend", "--plain", "portico-*", check=False).stdout
    need(not known, known)

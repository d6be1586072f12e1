"""Runs the program of a unit inside what the unit leaves it, as systemd would, on a lab host that has no systemd.

`python in_unit.py UNIT SYSCALLS`: the unit file, and a JSON file of its system calls (names that `SystemCallFilter=`
allows, expanded). Makes the directories, runs `ExecStartPre=`, then takes everything away and becomes `ExecStart=`.

It fails on a directive that it does not know, so that nothing new in a unit goes unnoticed. What it knows and cannot do
is in `NOT_DONE`.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import pwd
import resource
import shlex
import socket
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

Directives = list[tuple[str, str]]

NOT_DONE = frozenset(
    [
        # The host's first process does these, or the kernel needs systemd for them (control groups).
        *("Type", "Restart", "RestartSec", "TimeoutStopSec", "KillMode", "RuntimeDirectoryPreserve", "ExecStopPost"),
        "WatchdogSec",
        *("CPUWeight", "DevicePolicy", "DeviceAllow", "MemoryMax", "TasksMax"),
        # Of no meaning with the capabilities that are left, or covered by the filter of system calls.
        *("LockPersonality", "ProtectClock", "ProtectControlGroups", "ProtectHostname", "ProtectKernelLogs"),
        *("ProtectKernelModules", "PrivateMounts", "RemoveIPC", "RestrictRealtime", "SystemCallArchitectures"),
    ]
)
DONE = frozenset(
    [
        *("ExecStartPre", "ExecStart", "Environment", "WorkingDirectory", "User", "LimitNOFILE", "Nice"),
        *("UMask",),
        *("RuntimeDirectory", "StateDirectory", "StateDirectoryMode", "LogsDirectory", "LogsDirectoryMode"),
        "ConfigurationDirectory",
        *(
            "AmbientCapabilities",
            "CapabilityBoundingSet",
            "NoNewPrivileges",
            "BindPaths",
            "InaccessiblePaths",
            "ReadWritePaths",
        ),
        *("PrivateDevices", "PrivateTmp", "ProcSubset", "ProtectHome", "ProtectKernelTunables", "ProtectProc"),
        *("ProtectSystem", "MemoryDenyWriteExecute", "RestrictAddressFamilies", "RestrictNamespaces"),
        *("RestrictSUIDSGID", "SystemCallFilter", "SystemCallErrorNumber"),
    ]
)

CAPABILITIES = {
    "CAP_NET_BIND_SERVICE": 10,
    "CAP_NET_ADMIN": 12,
    "CAP_NET_RAW": 13,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
}
"""linux/capability.h, those that a unit leaves."""
LAST_CAPABILITY = int(Path("/proc/sys/kernel/cap_last_cap").read_text())

PR_SET_KEEPCAPS, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 8, 24, 38, 47
PR_CAP_AMBIENT_RAISE = 2
CAPABILITY_VERSION = 0x20080522
CLONE_NEWNS = 0x00020000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = (
    1,
    2,
    4,
    8,
    32,
    4096,
    16384,
    1 << 18,
)
SYS_MOUNT_SETATTR, AT_RECURSIVE, MOUNT_ATTR_RDONLY = 442, 0x8000, 1
SCMP_ALLOW, SCMP_ERRNO, SCMP_EQ, SCMP_MASKED_EQ = 0x7FFF0000, 0x00050000, 4, 7
PROT_WRITE, PROT_EXEC = 2, 4
NAMESPACES = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)

_libc = ctypes.CDLL(None, use_errno=True)


class MountAttributes(ctypes.Structure):
    """struct mount_attr, mount_setattr(2)."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


class Comparison(ctypes.Structure):
    """struct scmp_arg_cmp, seccomp_rule_add(3)."""

    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


def check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno() or -result
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, data: str | None = None) -> None:
    encoded = [value.encode() if value is not None else None for value in (source, target, kind)]
    options = data.encode() if data else None
    check(_libc.mount(*encoded, ctypes.c_ulong(flags), options), f"mount {source} on {target}")


def set_read_only(path: str, read_only: bool) -> None:
    bit = MOUNT_ATTR_RDONLY
    attributes = MountAttributes(bit, 0, 0, 0) if read_only else MountAttributes(0, bit, 0, 0)
    size = ctypes.sizeof(attributes)
    done = _libc.syscall(SYS_MOUNT_SETATTR, -100, path.encode(), AT_RECURSIVE, ctypes.byref(attributes), size)
    check(done, f"mount_setattr {path}")


def read_unit(path: str) -> Directives:
    found, section = [], ""
    for line in Path(path).read_text().splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.append((key, value))
    unknown = {key for key, _ in found} - DONE - NOT_DONE
    if unknown:
        raise SystemExit(f"{path}: nobody here knows {', '.join(sorted(unknown))}")
    return found


class Unit:
    """The directives of a service, by name."""

    def __init__(self, directives: Directives) -> None:
        self._directives = directives

    def all(self, key: str) -> list[str]:
        return [value for name, value in self._directives if name == key]

    def words(self, key: str) -> list[str]:
        return [word for value in self.all(key) for word in value.split()]

    def one(self, key: str, default: str = "") -> str:
        return (self.all(key) or [default])[-1]

    def says(self, key: str) -> bool:
        return self.one(key) == "yes"


def make_directories(unit: Unit) -> list[str]:
    """The directories of the service; returns those it may write to."""
    made = []
    for key, top in (("Runtime", "/run"), ("State", "/var/lib"), ("Logs", "/var/log"), ("Configuration", "/etc")):
        for name in unit.words(f"{key}Directory"):
            path = Path(top, name)
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(int(unit.one(f"{key}DirectoryMode", "0755"), 8))
            made.append(str(path))
    return made


def hide_devices(shown: Sequence[str]) -> None:
    """A /dev without hardware, but for what is shown."""
    devices = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", *shown]
    handles = {path: os.open(path, os.O_PATH) for path in devices}
    mount("tmpfs", "/dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755")
    for path, handle in handles.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).touch()
        mount(f"/proc/self/fd/{handle}", path, flags=MS_BIND)
        os.close(handle)
    Path("/dev/shm").mkdir()
    mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV)
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        Path("/dev", name).symlink_to(f"/proc/self/{target}")


def make_private(unit: Unit, writable: list[str]) -> None:
    """The service's own view of the file system."""
    check(_libc.unshare(CLONE_NEWNS), "unshare")
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    if unit.says("PrivateDevices"):
        hide_devices([path.removeprefix("-") for path in unit.words("BindPaths")])
    subset = ",subset=pid" if unit.one("ProcSubset") == "pid" else ""
    invisible = unit.one("ProtectProc") == "invisible"
    if subset or invisible:
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, f"hidepid=invisible{subset}")
    if unit.says("PrivateTmp"):
        for path in ("/tmp", "/var/tmp"):
            mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    if unit.says("ProtectHome"):
        for path in ("/home", "/root"):
            # A lab may run an interpreter of somebody's home, which the host covers itself.
            if not Path(sys.base_prefix).is_relative_to(path):
                mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, "mode=000")
    for path in unit.words("InaccessiblePaths"):
        if Path(path.removeprefix("-")).exists():
            mount("tmpfs", path.removeprefix("-"), "tmpfs", MS_NOSUID | MS_NODEV, "mode=000")
    writable = [*writable, *unit.words("ReadWritePaths")]
    if unit.one("ProtectSystem") == "strict":
        for path in writable:
            mount(path, path, flags=MS_BIND | MS_REC)
        kept = ["/dev", "/proc", "/tmp", "/var/tmp"]
        set_read_only("/", read_only=True)
        for path in kept:
            set_read_only(path, read_only=False)
    if unit.says("ProtectKernelTunables"):
        tunables = ["/sys", *([] if subset else ["/proc/sys", "/proc/irq", "/proc/bus"])]
        for path in tunables:
            if Path(path).exists():
                mount(path, path, flags=MS_BIND | MS_REC)
                set_read_only(path, read_only=True)
    for path in writable:
        if path.startswith("/proc"):
            mount(path, path, flags=MS_BIND)
        set_read_only(path, read_only=False)


class Filter:
    """A filter of system calls, made with the library that systemd uses (libseccomp)."""

    def __init__(self, otherwise: int) -> None:
        self._library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._library.seccomp_init(ctypes.c_uint32(otherwise)))

    def rule(self, action: int, name: str, *comparisons: Comparison) -> None:
        number = self._library.seccomp_syscall_resolve_name(name.encode())
        if number < 0:  # not on this machine
            return
        listed = (Comparison * len(comparisons))(*comparisons)
        done = self._library.seccomp_rule_add_array(
            self._context, ctypes.c_uint32(action), number, len(comparisons), listed
        )
        check(done, f"seccomp rule for {name}")

    def load(self) -> None:
        check(self._library.seccomp_load(self._context), "seccomp_load")


def make_filters(unit: Unit, allowed: Sequence[str]) -> list[Filter]:
    assert unit.one("SystemCallErrorNumber") == "EPERM"
    refused = SCMP_ERRNO | errno.EPERM
    calls, arguments = Filter(refused), Filter(SCMP_ALLOW)
    for name in allowed:
        if name != "socket":
            calls.rule(SCMP_ALLOW, name)
    for family in unit.words("RestrictAddressFamilies"):
        calls.rule(SCMP_ALLOW, "socket", Comparison(0, SCMP_EQ, getattr(socket, family), 0))
    if unit.says("MemoryDenyWriteExecute"):
        both = PROT_WRITE | PROT_EXEC
        arguments.rule(refused, "mmap", Comparison(2, SCMP_MASKED_EQ, both, both))
        for name in ("mprotect", "pkey_mprotect"):
            arguments.rule(refused, name, Comparison(2, SCMP_MASKED_EQ, PROT_EXEC, PROT_EXEC))
    if unit.says("RestrictNamespaces"):
        arguments.rule(refused, "setns")
        for flag in NAMESPACES:
            for name in ("clone", "unshare"):
                arguments.rule(refused, name, Comparison(0, SCMP_MASKED_EQ, flag, flag))
        arguments.rule(SCMP_ERRNO | errno.ENOSYS, "clone3")
    if unit.says("RestrictSUIDSGID"):
        for bit in (stat.S_ISUID, stat.S_ISGID):
            for name, place in (("chmod", 1), ("fchmod", 1), ("fchmodat", 2)):
                arguments.rule(refused, name, Comparison(place, SCMP_MASKED_EQ, bit, bit))
    return [arguments, calls]  # the second one may forbid to load another


def become(unit: Unit) -> None:
    """Account and privileges."""
    kept = {CAPABILITIES[name] for name in unit.words("CapabilityBoundingSet")}
    for number in range(LAST_CAPABILITY + 1):
        if number not in kept:
            check(_libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0), f"dropping capability {number}")
    if user := unit.one("User"):
        account = pwd.getpwnam(user)
        ambient = {CAPABILITIES[name] for name in unit.words("AmbientCapabilities")}
        check(_libc.prctl(PR_SET_KEEPCAPS, int(bool(ambient)), 0, 0, 0), "keeping capabilities")
        os.setgroups([])
        os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
        os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
        if ambient:
            make_ambient(ambient)
    else:
        os.setgroups([])
    if unit.says("NoNewPrivileges"):
        check(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def make_ambient(kept: set[int]) -> None:
    """These capabilities, and no other, survive the start of the program (capabilities(7))."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    words = [sum(1 << (number - 32 * word) for number in kept if number // 32 == word) for word in range(2)]
    data = (ctypes.c_uint32 * 6)(*(value for word in words for value in (word, word, word)))
    check(_libc.capset(header, data), "capset")
    for number in kept:
        check(_libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number, 0, 0), f"ambient capability {number}")


def main() -> None:
    unit = Unit(read_unit(sys.argv[1]))
    allowed = json.loads(Path(sys.argv[2]).read_text())
    os.umask(int(unit.one("UMask", "0022"), 8))
    writable = make_directories(unit)
    for command in unit.all("ExecStartPre"):
        assert command.startswith("+"), "inside the sandbox is not done here"
        subprocess.run(shlex.split(command[1:]), check=True)
    if limit := unit.one("LimitNOFILE"):
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = min(int(limit), most)  # the machine that carries the lab may have less to give
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.setpriority(os.PRIO_PROCESS, 0, int(unit.one("Nice", "0")))
    environment = {**os.environ, **dict(word.split("=", 1) for word in unit.words("Environment"))}
    os.chdir(unit.one("WorkingDirectory", "/"))
    filters = make_filters(unit, allowed)
    program = shlex.split(unit.one("ExecStart"))
    make_private(unit, writable)
    become(unit)
    for made in filters:
        made.load()
    os.execve(program[0], program, environment)


if __name__ == "__main__":
    main()

"""Programs at an interface's tcx hooks (kernel 6.6), which cost a packet a third of what those behind clsact cost.

What hangs there stays when its process ends, as the filter must, and nobody without CAP_SYS_ADMIN learns from the
kernel which program it is. So each of ours is noted: the same program as a tc filter in a chain that no packet comes
to. tc tells its number, and a note is there before its program is attached and until it is off: what is ours is found
by whoever comes next, wherever a process was killed. Others' programs stay.

The library for this is libbpf 1.3, which Debian 12 does not have.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
from collections.abc import Iterator

from portico.balancing.nlb import rtnetlink

INGRESS, EGRESS = 1, 2
_TYPES = {INGRESS: 46, EGRESS: 47}  # BPF_TCX_INGRESS, BPF_TCX_EGRESS in linux/bpf.h
_PARENTS = {INGRESS: 0xFFFF_FFF2, EGRESS: 0xFFFF_FFF3}  # TC_H_CLSACT with TC_H_MIN_INGRESS, TC_H_MIN_EGRESS
_CALLS = {"x86_64": 321, "aarch64": 280, "riscv64": 280}
"""bpf(2) by machine; glibc has no name for it."""
_ATTACH, _DETACH, _QUERY = 8, 9, 16
_BEFORE, _AFTER, _ID = 1 << 3, 1 << 4, 1 << 5

CHAIN, PRIORITY = 0x4E4C, 0x4E4C
"""Of our notes: "NL"."""
MAX_NOTES = 64
MAX_PROGRAMS = 64
"""At one hook, what the kernel allows (BPF_MPROG_MAX)."""
_ATTEMPTS = 5
"""To take a program off while others change theirs."""

_TCMSG = struct.Struct("=BxxxiIII")
_NEW, _DELETE, _GET = 44, 45, 46  # RTM_NEWTFILTER, RTM_DELTFILTER, RTM_GETTFILTER
_KIND, _OPTIONS, _CHAIN = 1, 2, 11  # TCA_KIND, TCA_OPTIONS, TCA_CHAIN
_FD, _NAME, _FLAGS, _NUMBER = 6, 7, 8, 11  # TCA_BPF_FD, TCA_BPF_NAME, TCA_BPF_FLAGS, TCA_BPF_ID
_DIRECT = 1  # TCA_BPF_FLAG_ACT_DIRECT
_EVERY_PROTOCOL = socket.htons(3)  # ETH_P_ALL


def supported(index: int) -> bool:
    """Whether this kernel has the hooks, and this process may look at them."""
    try:
        _programs(index, INGRESS)
    except OSError:
        return False
    return True


def attach(index: int, point: int, program: int) -> None:
    """Attaches a program, in place of earlier ones of ours; until they are off, both judge. clsact is there. Raises
    OSError."""
    former = _notes(index, point)
    note = next(number for number in range(1, MAX_NOTES + 2) if number not in former)
    if note > MAX_NOTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    _write_note(index, point, note, program)
    try:
        _bpf(_ATTACH, struct.pack("=IIIIIIQ", index, program, _TYPES[point], 0, 0, 0, 0))
    except OSError:
        _erase_note(index, point, note)
        raise
    _take_off(index, point, former)


def attached(index: int, point: int) -> int | None:
    """The kernel's number of a program of ours; None when there is none. Raises OSError."""
    there = _programs(index, point)[0]
    return next((number for number in _notes(index, point).values() if number in there), None)


def detach(index: int, point: int) -> None:
    """Takes our programs off; a no-op when there is none. Raises OSError."""
    _take_off(index, point, _notes(index, point))


def _take_off(index: int, point: int, notes: dict[int, int]) -> None:
    for note, number in notes.items():
        _remove(index, point, number)
        _erase_note(index, point, note)


def _remove(index: int, point: int, number: int) -> None:
    """Takes one off by where it stands: only its own process has a descriptor of it."""
    for attempt in range(_ATTEMPTS):
        there, revision = _programs(index, point)
        if number not in there:
            return
        place = there.index(number)
        flags, relative = (_AFTER | _ID, there[place - 1]) if place else (_BEFORE, 0)
        try:
            _bpf(_DETACH, struct.pack("=IIIIIIQ", index, 0, _TYPES[point], flags, 0, relative, revision))
        except OSError as error:
            if error.errno != errno.ESTALE or attempt == _ATTEMPTS - 1:
                raise


def _programs(index: int, point: int) -> tuple[list[int], int]:
    """Numbers of the programs at a hook in order, and the revision of that list."""
    numbers = (ctypes.c_uint32 * MAX_PROGRAMS)()
    attributes = struct.pack(
        "=IIIIQIIQQQQ", index, _TYPES[point], 0, 0, ctypes.addressof(numbers), MAX_PROGRAMS, 0, 0, 0, 0, 0
    )
    try:
        answer = _bpf(_QUERY, attributes)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return [], 0
        raise
    (count,) = struct.unpack_from("=I", answer, 24)
    (revision,) = struct.unpack_from("=Q", answer, 56)
    return list(numbers[:count]), revision


def _bpf(command: int, attributes: bytes) -> bytes:
    """bpf(2); what the kernel made of the attributes. Raises OSError."""
    number = _CALLS.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(ctypes.c_long(number), ctypes.c_int(command), buffer, ctypes.c_uint(len(attributes))) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return buffer.raw


def _message(index: int, point: int, note: int) -> bytes:
    return _TCMSG.pack(socket.AF_UNSPEC, index, note, _PARENTS[point], PRIORITY << 16 | _EVERY_PROTOCOL)


def _write_note(index: int, point: int, note: int, program: int) -> None:
    options = b"".join(
        (
            rtnetlink.attribute(_FD, struct.pack("=I", program)),
            rtnetlink.attribute(_NAME, b"portico\0"),
            rtnetlink.attribute(_FLAGS, struct.pack("=I", _DIRECT)),
        )
    )
    attributes = rtnetlink.attribute(_KIND, b"bpf\0") + rtnetlink.attribute(_CHAIN, struct.pack("=I", CHAIN))
    attributes += rtnetlink.attribute(_OPTIONS, options)
    rtnetlink.change(_NEW, _message(index, point, note) + attributes, create=True)


def _erase_note(index: int, point: int, note: int) -> None:
    attributes = rtnetlink.attribute(_KIND, b"bpf\0") + rtnetlink.attribute(_CHAIN, struct.pack("=I", CHAIN))
    rtnetlink.change(_DELETE, _message(index, point, note) + attributes, create=False)


def _notes(index: int, point: int) -> dict[int, int]:
    """Numbers of programs by the note that tells."""
    return dict(_read_notes(index, point))


def _read_notes(index: int, point: int) -> Iterator[tuple[int, int]]:
    for message in rtnetlink.dump(_GET, _TCMSG.pack(socket.AF_UNSPEC, index, 0, _PARENTS[point], 0)):
        _, _, handle, _, information = _TCMSG.unpack_from(message)
        found = rtnetlink.attributes(message[_TCMSG.size :])
        if information >> 16 != PRIORITY or found.get(_CHAIN) != struct.pack("=I", CHAIN) or not handle:
            continue
        number = rtnetlink.attributes(found.get(_OPTIONS, b"")).get(_NUMBER)
        if number is not None:
            yield handle, struct.unpack("=I", number)[0]

"""The few functions of libbpf that the fast filter needs, through ctypes. Debian package libbpf1; no compiler at run
time.

Needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (socket lookups and loops), and AF_NETLINK for attaching.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

from portico.balancing.nlb import tcx
from portico.errors import Unavailable

LIBRARY = "libbpf.so.1"
INGRESS, EGRESS = 1, 2

HANDLE, PRIORITY = 1, 0x4E4C
"""Of our tc filters: "NL". Others' filters on the same interface stay, before or behind ours."""

_REPLACE = 1  # BPF_TC_F_REPLACE
_BATCH = 4096


class _Hook(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("index", ctypes.c_int),
        ("point", ctypes.c_int),
        ("parent", ctypes.c_uint32),
        ("end", ctypes.c_uint32),
    )


class _Options(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("program", ctypes.c_int),
        ("flags", ctypes.c_uint32),
        ("program_id", ctypes.c_uint32),
        ("handle", ctypes.c_uint32),
        ("priority", ctypes.c_uint32),
        ("end", ctypes.c_uint32),
    )


def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(LIBRARY, use_errno=True)
    except OSError as error:
        raise Unavailable(f"Cannot load {LIBRARY}", why=str(error), resolution="apt-get install libbpf1") from None
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    for name, result, arguments in (
        ("libbpf_set_print", pointer, [pointer]),
        ("bpf_object__open_file", pointer, [text, pointer]),
        ("bpf_object__load", ctypes.c_int, [pointer]),
        ("bpf_object__close", None, [pointer]),
        ("bpf_object__find_program_by_name", pointer, [pointer, text]),
        ("bpf_object__find_map_by_name", pointer, [pointer, text]),
        ("bpf_program__fd", ctypes.c_int, [pointer]),
        ("bpf_map__fd", ctypes.c_int, [pointer]),
        ("bpf_map__set_max_entries", ctypes.c_int, [pointer, ctypes.c_uint32]),
        ("bpf_map_update_elem", ctypes.c_int, [ctypes.c_int, text, text, ctypes.c_uint64]),
        ("bpf_map_lookup_elem", ctypes.c_int, [ctypes.c_int, text, pointer]),
        ("bpf_map_update_batch", ctypes.c_int, [ctypes.c_int, text, text, pointer, pointer]),
        ("bpf_map_delete_batch", ctypes.c_int, [ctypes.c_int, text, pointer, pointer]),
        ("libbpf_num_possible_cpus", ctypes.c_int, []),
        ("bpf_tc_hook_create", ctypes.c_int, [ctypes.POINTER(_Hook)]),
        ("bpf_tc_hook_destroy", ctypes.c_int, [ctypes.POINTER(_Hook)]),
        ("bpf_tc_attach", ctypes.c_int, [ctypes.POINTER(_Hook), ctypes.POINTER(_Options)]),
        ("bpf_tc_detach", ctypes.c_int, [ctypes.POINTER(_Hook), ctypes.POINTER(_Options)]),
        ("bpf_tc_query", ctypes.c_int, [ctypes.POINTER(_Hook), ctypes.POINTER(_Options)]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    # Its complaints come back as errors; standard error is the log's.
    library.libbpf_set_print(None)
    return library


class Object:
    """A loaded object file: its programs and maps, until it is closed. What is attached stays attached.

    Loading takes the kernel's verifier its time, during which other threads run.
    """

    def __init__(self, path: Path, sizes: dict[str, int]) -> None:
        """Loads it; `sizes` overrides how many entries maps have.

        Raises:
            Unavailable: the library or the file is missing, or the kernel refuses the program.
        """
        self._library = library = _library()
        # Without a buffer for the verifier's log: with one, libbpf 1.1 crashes when a program is refused.
        self._object = library.bpf_object__open_file(os.fsencode(path), None)
        if not self._object:
            raise _failed(f"open {path}", ctypes.get_errno(), resolution="make bpf builds it; packages bring it")
        self._closing = weakref.finalize(self, library.bpf_object__close, self._object)
        self._maps: dict[str, int] = {}
        try:
            for name, size in sizes.items():
                _check(library.bpf_map__set_max_entries(self._map(name), size), f"size the map {name}")
            _check(library.bpf_object__load(self._object), "load the eBPF filter")
        except BaseException:
            self.close()
            raise

    def program(self, name: str) -> int:
        """The descriptor of a program."""
        found = self._library.bpf_object__find_program_by_name(self._object, name.encode())
        return int(_check(self._library.bpf_program__fd(found) if found else -errno.ENOENT, f"find the program {name}"))

    def put(self, name: str, key: bytes, value: bytes) -> None:
        """Writes one entry of a map."""
        _check(self._library.bpf_map_update_elem(self._descriptor(name), key, value, 0), f"write the map {name}")

    def get(self, name: str, key: bytes, size: int) -> bytes:
        """Reads one entry of `size` bytes."""
        value = ctypes.create_string_buffer(size)
        _check(self._library.bpf_map_lookup_elem(self._descriptor(name), key, value), f"read the map {name}")
        return value.raw

    def put_many(self, name: str, keys: Sequence[bytes], value: bytes) -> None:
        """Writes one value under many keys, a system call for thousands."""
        for start in range(0, len(keys), _BATCH):
            chunk = keys[start : start + _BATCH]
            count = ctypes.c_uint32(len(chunk))
            code = self._library.bpf_map_update_batch(
                self._descriptor(name), b"".join(chunk), value * len(chunk), ctypes.byref(count), None
            )
            _check(code, f"write the map {name}")

    def delete_many(self, name: str, keys: Sequence[bytes]) -> None:
        """Removes keys that are there."""
        for start in range(0, len(keys), _BATCH):
            chunk = keys[start : start + _BATCH]
            count = ctypes.c_uint32(len(chunk))
            code = self._library.bpf_map_delete_batch(
                self._descriptor(name), b"".join(chunk), ctypes.byref(count), None
            )
            _check(code, f"write the map {name}")

    def close(self) -> None:
        self._closing()
        self._object = None

    def _descriptor(self, name: str) -> int:
        if name not in self._maps:
            self._maps[name] = int(_check(self._library.bpf_map__fd(self._map(name)), f"find the map {name}"))
        return self._maps[name]

    def _map(self, name: str) -> int:
        found: int | None = self._library.bpf_object__find_map_by_name(self._object, name.encode())
        if not found:
            raise _failed(f"find the map {name}", errno.ENOENT)
        return found


def attach(index: int, point: int, program: int) -> None:
    """Attaches a program, in place of an earlier one of ours: at tcx, behind clsact where the kernel has no tcx. Raises
    Unavailable."""
    library = _library()
    hook = _Hook(ctypes.sizeof(_Hook), index, point)
    code = library.bpf_tc_hook_create(ctypes.byref(hook))
    if code < 0 and code != -errno.EEXIST:
        raise _failed("add clsact to the interface", -code)
    if tcx.supported(index):
        with _failing("attach the eBPF filter"):
            tcx.attach(index, point, program)
        # What a release before left, which knew no other way.
        _detach_classifier(index, point)
        return
    options = _Options(ctypes.sizeof(_Options), program, _REPLACE, 0, HANDLE, PRIORITY)
    _check(library.bpf_tc_attach(ctypes.byref(hook), ctypes.byref(options)), "attach the eBPF filter")


def attached(index: int, point: int) -> int | None:
    """The kernel's number of the program that is attached for us; None when there is none. Raises Unavailable."""
    if tcx.supported(index):
        with _failing("look for the eBPF filter"):
            found = tcx.attached(index, point)
        if found is not None:
            return found
    return _classifier(index, point)


def detach(index: int, point: int) -> None:
    """Takes our program off; a no-op when it is not there. Raises Unavailable."""
    if tcx.supported(index):
        with _failing("detach the eBPF filter"):
            tcx.detach(index, point)
    _detach_classifier(index, point)


def _classifier(index: int, point: int) -> int | None:
    library = _library()
    hook = _Hook(ctypes.sizeof(_Hook), index, point)
    options = _Options(ctypes.sizeof(_Options), 0, 0, 0, HANDLE, PRIORITY)
    if library.bpf_tc_query(ctypes.byref(hook), ctypes.byref(options)) < 0:
        return None
    return int(options.program_id)


def _detach_classifier(index: int, point: int) -> None:
    if _classifier(index, point) is None:
        return
    library = _library()
    hook = _Hook(ctypes.sizeof(_Hook), index, point)
    options = _Options(ctypes.sizeof(_Options), 0, 0, 0, HANDLE, PRIORITY)
    _check(library.bpf_tc_detach(ctypes.byref(hook), ctypes.byref(options)), "detach the eBPF filter")


@contextlib.contextmanager
def _failing(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _failed(what, error.errno or errno.EIO) from None


def possible_cpus() -> int:
    """How many values an entry of a per-CPU map has."""
    return int(_check(_library().libbpf_num_possible_cpus(), "count the processors"))


def _check(code: int, what: str) -> int:
    if code < 0:
        raise _failed(what, -code)
    return code


def _failed(what: str, number: int, *, resolution: str = "") -> Unavailable:
    why = os.strerror(number)
    if number == errno.E2BIG:
        # Without CAP_PERFMON the verifier also follows what a processor might speculate, and gives up.
        why += " (the kernel's verifier gave up, which it does without CAP_PERFMON)"
    return Unavailable(
        f"Cannot {what}",
        why=why,
        resolution=resolution
        or "It needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, and a kernel with eBPF (5.10 or newer)",
        code="NLB_BPF_REFUSED",
    )

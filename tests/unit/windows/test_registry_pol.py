"""Registry.pol: read back by Samba's own parser, and from it, and damaged in every way."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portico.windows.registry_pol import SIGNATURE, Data, Kind, RegistryValue, pack, parse

# Samba's bindings are for the distribution's interpreter. It prints bytes in hex, for it leaves MULTI_SZ encoded.
_SAMBA_READS = """
import json, sys
from samba.dcerpc import preg
from samba.ndr import ndr_unpack
found = ndr_unpack(preg.file, open(sys.argv[1], "rb").read())
assert found.header.signature == "PReg" and found.header.version == 1
plain = lambda data: {"hex": bytes(data).hex()} if isinstance(data, (bytes, list)) else data
print(json.dumps([[e.keyname, e.valuename, e.type, plain(e.data)] for e in found.entries]))
"""
_SAMBA_WRITES = r"""
import sys
from samba.dcerpc import preg, misc
from samba.ndr import ndr_pack
file = preg.file()
file.header.signature, file.header.version = "PReg", 1
rows = [("Software\\A", "text", misc.REG_SZ, "value"), ("Software\\A", "number", misc.REG_DWORD, 4294967295),
        ("Software\\B", "list", misc.REG_MULTI_SZ, ".corp.example\0\0".encode("utf-16-le"))]
entries = []
for key, name, kind, data in rows:
    entry = preg.entry()
    entry.keyname, entry.valuename, entry.type, entry.data = key, name, kind, data
    entries.append(entry)
file.entries, file.num_entries = entries, len(entries)
open(sys.argv[1], "wb").write(ndr_pack(file))
"""


def _samba(program: str, path: Path) -> str:
    done = subprocess.run(["/usr/bin/python3", "-c", program, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_samba_reads_every_value_of_the_client_policy(values: list[RegistryValue], tmp_path: Path) -> None:
    path = tmp_path / "registry.pol"
    path.write_bytes(pack(values))
    found = json.loads(_samba(_SAMBA_READS, path))
    assert len(found) == len(values)
    for (key, name, kind, data), value in zip(found, values, strict=True):
        assert (key, name, kind) == (value.key, value.name, int(value.kind))
        if isinstance(data, dict):
            assert bytes.fromhex(data["hex"]) == value.encoded()
        else:
            assert data == value.data


def test_what_samba_wrote_is_read(tmp_path: Path) -> None:
    path = tmp_path / "registry.pol"
    _samba(_SAMBA_WRITES, path)
    assert parse(path.read_bytes()) == [
        RegistryValue("Software\\A", "text", Kind.SZ, "value"),
        RegistryValue("Software\\A", "number", Kind.DWORD, 0xFFFFFFFF),
        RegistryValue("Software\\B", "list", Kind.MULTI_SZ, (".corp.example",)),
    ]


_text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
_name = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=30)
_contents: st.SearchStrategy[tuple[Kind, Data]] = st.one_of(
    st.tuples(st.just(Kind.SZ), _text),
    st.tuples(st.just(Kind.DWORD), st.integers(0, 0xFFFFFFFF)),
    st.tuples(st.just(Kind.QWORD), st.integers(0, (1 << 64) - 1)),
    st.tuples(st.just(Kind.BINARY), st.binary(max_size=30)),
    st.tuples(st.just(Kind.MULTI_SZ), st.lists(_name, max_size=3).map(tuple)),
)


@given(st.lists(st.tuples(_name, _name, _contents), max_size=5))
def test_what_is_written_is_read_back(rows: list[tuple[str, str, tuple[Kind, Data]]]) -> None:
    values = [RegistryValue(key, name, kind, data) for key, name, (kind, data) in rows]
    assert parse(pack(values)) == values


@given(st.binary(max_size=200))
def test_strangers_bytes_are_refused_with_a_reason(data: bytes) -> None:
    try:
        parse(SIGNATURE + data)
    except ValueError as error:
        assert str(error)


def test_a_file_cut_anywhere_is_refused(values: list[RegistryValue]) -> None:
    whole = pack(values[:3])
    ends = {len(pack(values[:count])) for count in range(4)}
    for length in set(range(len(whole))) - ends:
        with pytest.raises(ValueError, match=r"."):
            parse(whole[:length])


@pytest.mark.parametrize(
    "value",
    [
        RegistryValue("k", "n", Kind.DWORD, 1 << 32),
        RegistryValue("k", "n", Kind.DWORD, "1"),
        RegistryValue("k", "n", Kind.SZ, "a\0b"),
        RegistryValue("", "n", Kind.SZ, "a"),
        RegistryValue("k", "n", Kind.MULTI_SZ, ("", "a")),
    ],
)
def test_data_that_is_not_of_its_kind_is_not_written(value: RegistryValue) -> None:
    with pytest.raises(ValueError, match=r"."):
        pack([value])

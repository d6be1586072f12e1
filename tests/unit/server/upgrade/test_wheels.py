"""Wheels of a small program that is called portico, in a Python environment of the test's own."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import Distribution, DistributionFinder, MetadataPathFinder
from pathlib import Path

import pip
import pytest

from portico.errors import InvalidInput, NotFound, PorticoError, Unavailable
from portico.server.upgrade import program, wheels

TAG = "py3-none-any"


def wheel(directory: Path, version: str, *, requires: str = "", breaks: bool = False) -> Path:
    """A wheel whose program prints its version, and whose `portico server refresh` does nothing."""
    directory.mkdir(parents=True, exist_ok=True)
    info = f"portico-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: portico\nVersion: {version}\n"
    metadata += f"Requires-Dist: {requires}\n" if requires else ""
    main = (
        "raise SystemExit('broken here')\n" if breaks else "def main():\n    print(__import__('portico').__version__)\n"
    )
    files = {
        "portico/__init__.py": f'__version__ = "{version}"\n',
        f"portico/only_{version.replace('.', '_')}.py": "",
        "portico/__main__.py": main,
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {TAG}\n",
        f"{info}/entry_points.txt": "[console_scripts]\nportico = portico.__main__:main\n",
    }
    record = ""
    path = directory / f"portico-{version}-{TAG}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record += f"{name},sha256={digest},{len(text)}\n"
        archive.writestr(f"{info}/RECORD", record + f"{info}/RECORD,,\n")
    return path


class Environment:
    def __init__(self, directory: Path) -> None:
        venv.create(directory, with_pip=False)
        self.python = directory / "bin" / "python"
        self.site = next(directory.glob("lib/python3*/site-packages"))
        # The pip of these tests' own environment: making another takes longer than all the rest.
        (self.site / "pip").symlink_to(Path(pip.__file__).parent)

    def distribution(self) -> Distribution:
        (found,) = MetadataPathFinder.find_distributions(
            DistributionFinder.Context(name="portico", path=[str(self.site)])
        )
        return found

    def run(self) -> str:
        command = [self.python.with_name("portico")]
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd="/").stdout.strip()


def test_a_program_is_exchanged_and_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = Environment(tmp_path / "venv")
    monkeypatch.setattr("portico.server.upgrade.program.sys.executable", str(environment.python))
    program.install(wheel(tmp_path, "0.1.0"))
    assert environment.run() == "0.1.0"
    former = wheels.pack(environment.distribution(), tmp_path / "former")
    assert former.name == f"portico-0.1.0-{TAG}.whl" == wheels.former_name(environment.distribution())
    assert wheels.read_wheel(former).version == "0.1.0"
    with zipfile.ZipFile(former) as packed, zipfile.ZipFile(tmp_path / former.name) as original:
        assert sorted(packed.namelist()) == sorted(original.namelist())
    new = wheel(tmp_path, "0.2.0", breaks=True)
    program.require_libraries(new)
    program.install(new)
    assert not (environment.site / "portico" / "only_0_1_0.py").exists()
    with pytest.raises(Unavailable) as error:
        program.refresh()
    assert error.value.code == "REFRESH_FAILED" and "broken here" in error.value.why
    program.install(former)
    assert environment.run() == "0.1.0"
    assert not (environment.site / "portico" / "only_0_2_0.py").exists()
    needy = wheel(tmp_path, "0.3.0", requires="portico-library-that-nobody-has>=1")
    with pytest.raises(Unavailable) as error:
        program.require_libraries(needy)
    assert error.value.code == "LIBRARIES_MISSING" and "portico-library-that-nobody-has" in error.value.why
    (environment.site / "portico" / "only_0_1_0.py").unlink()
    with pytest.raises(Unavailable) as error:
        wheels.pack(environment.distribution(), tmp_path / "again")
    assert "only_0_1_0.py" in error.value.why
    assert list((tmp_path / "again").iterdir()) == []


def test_the_checksum_decides_which_wheel_was_meant(tmp_path: Path) -> None:
    path = wheel(tmp_path, "0.2.0")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    found = wheels.read_wheel(path, digest.upper())
    assert (found.version, found.sha256, found.name) == ("0.2.0", digest, path.name)
    with pytest.raises(InvalidInput) as error:
        wheels.read_wheel(path, "0" * 64)
    assert error.value.code == "SHA256_DIFFERS" and digest in error.value.why


def test_what_is_no_wheel_of_portico_is_refused(tmp_path: Path) -> None:
    good = wheel(tmp_path, "0.2.0").read_bytes()
    for name, data, code in [
        ("portico-0.2.0-py3-none-any.whl", good[:200], "WHEEL_UNUSABLE"),
        ("portico-0.2.0-py3-none-any.whl", b"text", "WHEEL_UNUSABLE"),
        ("portico-0.2.0.tar.gz", good, "WHEEL_UNUSABLE"),
        ("other-0.2.0-py3-none-any.whl", good, "WHEEL_UNUSABLE"),
        ("portico-0.2.0-py3-none-any.whl", b"", "FILE_EMPTY"),
    ]:
        path = tmp_path / "bad" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        with pytest.raises(PorticoError) as error:
            wheels.read_wheel(path)
        assert error.value.code == code, name
    with zipfile.ZipFile(tmp_path / "bad" / "portico-0.2.0-py3-none-any.whl", "w") as archive:
        archive.writestr("portico-0.2.0.dist-info/METADATA", "Name: other\nVersion: 1\n")
    with pytest.raises(InvalidInput, match="something else"):
        wheels.read_wheel(tmp_path / "bad" / "portico-0.2.0-py3-none-any.whl")


def test_a_directory_with_sources_is_no_installation() -> None:
    with pytest.raises(NotFound) as error:
        wheels.installed()
    assert error.value.code == "NOT_A_WHEEL", sys.prefix

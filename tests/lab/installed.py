"""Portico installed from wheels on a lab host, as `packaging/install.sh` does it, so that it can be upgraded there.

The wheels are made of the package that the lab runs; only the version differs. Libraries are those of the lab.
"""

from __future__ import annotations

import base64
import hashlib
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from portico.lab.hosts import INTERPRETER, PYTHON, ROOT, Host

PREFIX = "/var/lib/installed"
WHEELS = "/var/lib/wheels"
_LIBRARIES = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
_TAG = "py3-none-any"


def wheel(host: Host, version: str, changed: Mapping[str, str] | None = None) -> str:
    """Puts a wheel on the host's disk; returns its path there.

    Args:
        changed: files of the package that have this text instead.
    """
    info = f"portico-{version}.dist-info"
    texts = {
        "portico/__init__.py": f'"""Portico."""\n\n__version__ = "{version}"\n',
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: portico\nVersion: {version}\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {_TAG}\n",
        f"{info}/entry_points.txt": "[console_scripts]\nportico = portico.__main__:main\n",
        **(changed or {}),
    }
    files = {
        str(path.relative_to(ROOT)): path.read_bytes()
        for path in sorted((ROOT / "portico").rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    } | {name: text.encode() for name, text in texts.items()}
    name = f"portico-{version}-{_TAG}.whl"
    directory = Path(f"{host.disk}{WHEELS}")
    directory.mkdir(exist_ok=True)
    record = []
    with zipfile.ZipFile(directory / name, "w") as archive:
        for file, data in files.items():
            archive.writestr(file, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record.append(f"{file},sha256={digest},{len(data)}\n")
        archive.writestr(f"{info}/RECORD", "".join(record) + f"{info}/RECORD,,\n")
    return f"{WHEELS}/{name}"


def install(host: Host, path: str) -> None:
    """Makes an environment of its own with a wheel in it."""
    host.run(PYTHON, "-m", "venv", "--without-pip", PREFIX, timeout=60.0)
    host.run("chmod", "755", PREFIX)
    (Path(f"{host.disk}{PREFIX}") / _LIBRARIES / "libraries.pth").write_text(f"{INTERPRETER}/{_LIBRARIES}\n")
    pip = ("-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile", path)
    host.run(f"{PREFIX}/bin/python", *pip, env={"PYTHONPATH": ""}, timeout=120.0)


def portico(host: Host, *arguments: str, **options: Any) -> CompletedProcess[str]:
    """Runs the installed command."""
    return host.run(f"{PREFIX}/bin/portico", *arguments, env={"PYTHONPATH": ""}, **options)

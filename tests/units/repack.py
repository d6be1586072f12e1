"""Another version of a wheel, with the same program in it."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path


def repack(wheel: Path, version: str, into: Path) -> Path:
    """Writes the wheel of `version` made of another one, and returns its path."""
    _, old, *tags = wheel.stem.split("-")
    target = into / "-".join(["portico", version, *tags])
    target = target.with_name(target.name + ".whl")
    before, after = f"portico-{old}.dist-info", f"portico-{version}.dist-info"
    record = []
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as made:
        for item in source.infolist():
            name = item.filename.replace(before, after)
            if name == f"{after}/RECORD":
                continue
            data = source.read(item)
            if name in (f"{after}/METADATA", "portico/__init__.py"):
                data = data.replace(old.encode(), version.encode(), 1)
            made.writestr(name, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record.append(f"{name},sha256={digest},{len(data)}\n")
        made.writestr(f"{after}/RECORD", "".join(record) + f"{after}/RECORD,,\n")
    return target

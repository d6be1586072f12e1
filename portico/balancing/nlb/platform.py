"""What this server runs on, as far as load balancing depends on it. Detection is pure; `read_facts` looks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Name = Literal["hardware", "vmware", "hyperv", "kvm", "xen", "virtualbox", "openstack", "cloud"]

_FIELDS = ("sys_vendor", "product_name", "bios_vendor", "bios_version", "chassis_asset_tag", "board_vendor")

_AZURE_ASSET_TAG = "7783-7084-3265-9085-8269-3286-77"
"""The chassis asset tag of every virtual machine in Azure; the same DMI strings without it are Hyper-V."""

_CLOUDS = (
    ("amazon ec2", "Amazon EC2"),
    ("google compute engine", "Google Cloud"),
    ("google", "Google Cloud"),
    ("oraclecloud", "Oracle Cloud"),
    ("alibaba cloud", "Alibaba Cloud"),
    ("digitalocean", "DigitalOcean"),
    ("hetzner", "Hetzner Cloud"),
    ("scaleway", "Scaleway"),
    ("ibm:cloud", "IBM Cloud"),
)
_DRIVERS: dict[str, tuple[Name, str]] = {
    "vmxnet3": ("vmware", "VMware"),
    "hv_netvsc": ("hyperv", "Hyper-V"),
    "ena": ("cloud", "Amazon EC2"),
    "gve": ("cloud", "Google Cloud"),
    "mana": ("cloud", "Azure"),
    "xen-netfront": ("xen", "Xen"),
    "virtio_net": ("kvm", "KVM"),
}


@dataclass(frozen=True)
class Facts:
    """What was read: DMI strings by their name in /sys/class/dmi/id, drivers of the balanced interfaces, and the UUID
    a Xen hypervisor tells. What cannot be read is missing."""

    dmi: tuple[tuple[str, str], ...] = ()
    drivers: tuple[str, ...] = ()
    xen_uuid: str = ""


@dataclass(frozen=True)
class Platform:
    """The verdict.

    Attributes:
        layer2: whether servers can be on one Ethernet segment that floods. Clouds emulate one at most.
        evidence: what was seen.
    """

    name: Name
    title: str
    layer2: bool
    evidence: str


def detect(facts: Facts) -> Platform:
    """The platform that the facts speak of; hardware when nothing speaks of a virtual machine. Pure."""
    dmi = {key: value.strip().lower() for key, value in facts.dmi}
    everything = " | ".join(value for _, value in facts.dmi if value.strip())
    vendor, product = dmi.get("sys_vendor", ""), dmi.get("product_name", "")
    if dmi.get("chassis_asset_tag", "") == _AZURE_ASSET_TAG:
        return Platform("cloud", "Azure", False, f"chassis asset tag {_AZURE_ASSET_TAG}")
    for text, title in _CLOUDS:
        if any(value.startswith(text) or text in value.split() for value in dmi.values()) or text in product:
            return Platform("cloud", title, False, f"DMI: {everything}")
    if facts.xen_uuid.lower().startswith("ec2") or "amazon" in dmi.get("bios_version", ""):
        return Platform("cloud", "Amazon EC2", False, "hypervisor UUID or BIOS version of EC2")
    if product.startswith("openstack"):
        return Platform("openstack", "OpenStack", True, f"DMI: {everything}")
    for found, name, title in (
        (vendor.startswith("vmware") or product.startswith("vmware"), "vmware", "VMware"),
        (vendor == "microsoft corporation" and product == "virtual machine", "hyperv", "Hyper-V"),
        (vendor == "innotek gmbh" or product == "virtualbox", "virtualbox", "VirtualBox"),
        (vendor == "xen" or product.startswith("hvm domu"), "xen", "Xen"),
        (vendor in ("qemu", "ovirt", "nutanix") or product in ("kvm", "rhev hypervisor"), "kvm", "KVM"),
    ):
        if found:
            return Platform(name, title, True, f"DMI: {everything}")  # type: ignore[arg-type]
    for driver in facts.drivers:
        if driver in _DRIVERS:
            guessed, title = _DRIVERS[driver]
            return Platform(guessed, title, guessed != "cloud", f"network driver {driver}")
    return Platform("hardware", "hardware", True, f"DMI: {everything}" if everything else "nothing says otherwise")


def read_facts(interfaces: Iterable[str], root: Path = Path("/sys")) -> Facts:
    """Looks at this machine. What is not there or not readable is left out."""
    dmi = []
    for name in _FIELDS:
        try:
            dmi.append((name, (root / "class/dmi/id" / name).read_text(errors="replace").strip()))
        except OSError:
            continue
    drivers = []
    for interface in interfaces:
        try:
            drivers.append((root / "class/net" / interface / "device/driver").resolve(strict=True).name)
        except OSError:
            continue  # virtual interfaces have none
    try:
        uuid = (root / "hypervisor/uuid").read_text().strip()
    except OSError:
        uuid = ""
    return Facts(tuple(dmi), tuple(drivers), uuid)

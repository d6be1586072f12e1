#!/bin/sh
# debian-packages.sh SET... : installs what is missing of the named sets of requirements/debian.txt.
#
# The daemons among them (BIND, nginx, ...) run inside the lab only: they are kept from starting on this machine now,
# and services that arrive with this installation are disabled so that they do not start at the next boot either.
set -eu
list=$(dirname "$0")/../../requirements/debian.txt

wanted=$(for set in "$@"; do
    awk -v section="[$set]" '/^\[/ { inside = ($1 == section); next } inside && NF && $1 !~ /^#/ { print $1 }' "$list"
done)
missing=
for package in $wanted; do
    dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "These programs are needed and this is not Debian, so install them yourself:$missing" >&2
    exit 1
fi
sudo=
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || {
        echo "Root is needed to install$missing, and sudo is not installed: run make as root." >&2
        exit 1
    }
    echo "sudo asks for your password to install:$missing"
    sudo=sudo
fi

policy=/usr/sbin/policy-rc.d
made_policy=
units() { systemctl list-unit-files --type=service --no-legend 2>/dev/null | awk '{ print $1 }' | sort; }
cleanup() { [ -z "$made_policy" ] || $sudo rm -f "$policy"; }
trap cleanup EXIT
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null
    $sudo chmod 755 "$policy"
    made_policy=yes
fi
before=$(units)
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get -q update
# shellcheck disable=SC2086 # a list of words
$sudo env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends $missing
if [ -d /run/systemd/system ]; then
    units | while read -r unit; do
        printf '%s\n' "$before" | grep -qxF "$unit" || $sudo systemctl disable -q "$unit" 2>/dev/null || true
    done
fi

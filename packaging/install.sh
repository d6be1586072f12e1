#!/bin/sh
# install.sh [--prefix DIRECTORY] [--root DIRECTORY] [WHEEL] : installs Portico on this machine, for server and client.
# install.sh --remove [--prefix DIRECTORY] [--root DIRECTORY] : removes what was installed; settings and keys stay.
#
# Needs root, Python 3.11, python3-venv and nftables. WHEEL is what `make wheel` built; dist/portico-*.whl when not given.
# With --root everything goes below that directory (for building packages), and no service manager is told.
#
#   PREFIX/                                     a Python environment with Portico and what it needs
#   /usr/local/bin/portico                      a link to PREFIX/bin/portico
#   /usr/local/lib/systemd/system/              portico-server.service, portico-client.service (not enabled), and the
#                                               units of their packet paths, portico-gateway and portico-tunnel, and of
#                                               load balancing and the cluster's store, portico-balancer, portico-store;
#                                               portico-witness.service (not enabled)
#   /usr/local/lib/sysusers.d/portico.conf      the accounts of these processes
set -eu
here=$(cd "$(dirname "$0")" && pwd)
prefix=/opt/portico root= wheel= remove=
# The distribution's: an interpreter in somebody's home directory is out of reach of the unprivileged processes.
python=/usr/bin/python3
while [ $# -gt 0 ]; do
    case $1 in
        --prefix) prefix=$2; shift ;;
        --root) root=${2%/}; shift ;;
        --remove) remove=yes ;;
        -*) sed -n '2,3s/^# //p' "$0" >&2; exit 2 ;;
        *) wheel=$1 ;;
    esac
    shift
done
fail() { echo "install.sh: $*" >&2; exit 1; }
case $prefix in /?*) ;; *) fail "the prefix must be an absolute directory, not '$prefix'" ;; esac

bin=/usr/local/bin
units=/usr/local/lib/systemd/system
accounts=/usr/local/lib/sysusers.d
names="portico-server portico-gateway portico-balancer portico-store portico-location portico-witness portico-client portico-tunnel"
make_accounts() {
    for account in portico-gateway portico-balancer portico-store portico-witness portico-location portico-client; do
        id -u "$account" >/dev/null 2>&1 || PATH=$PATH:/usr/sbin \
            useradd --system --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin "$account"
    done
}
reload() { [ -n "$root" ] || [ ! -d /run/systemd/system ] || systemctl daemon-reload; }

if [ -n "$remove" ]; then
    for unit in $names; do
        if [ -z "$root" ] && [ -d /run/systemd/system ] && systemctl -q is-active "$unit"; then
            fail "$unit runs: stop it first (systemctl disable --now $unit)"
        fi
        # An enabled one would leave a link to nothing behind.
        if [ -z "$root" ] && [ -d /run/systemd/system ]; then systemctl -q disable "$unit" 2>/dev/null || true; fi
        rm -f "$root$units/$unit.service"
    done
    [ -n "$root" ] || [ ! -d /run/systemd/system ] || rm -rf /run/portico
    rm -f "$root$accounts/portico.conf"
    [ "$(readlink "$root$bin/portico" || true)" != "$prefix/bin/portico" ] || rm -f "$root$bin/portico"
    # Only an environment that this script made: a mistyped prefix must not cost a directory.
    if [ -f "$root$prefix/.portico" ]; then rm -rf "$root$prefix"; fi
    reload
    echo "Removed. Settings, certificates and keys stay in /var/lib/portico, and the accounts of the processes."
    exit 0
fi

if [ -z "$wheel" ]; then
    for wheel in "$here"/../dist/portico-*.whl; do :; done
    [ -f "$wheel" ] || fail "there is no wheel in dist/: build it with 'make wheel', or name one"
fi
[ -f "$wheel" ] || fail "$wheel does not exist"
[ -n "$root" ] || [ "$(id -u)" -eq 0 ] || fail "root is needed: run it with sudo"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "Python 3.11 or newer is needed"
"$python" -c 'import ensurepip' 2>/dev/null || fail "python3-venv is needed: apt-get install python3-venv"
[ -n "$root" ] || PATH=$PATH:/usr/sbin command -v nft >/dev/null || fail "nftables is needed: apt-get install nftables"
if [ -e "$root$prefix" ] && [ ! -f "$root$prefix/.portico" ] && [ -n "$(ls -A "$root$prefix")" ]; then
    fail "$root$prefix exists and is not an installation of Portico: choose another --prefix"
fi

echo "==> Python environment in $root$prefix"
umask 022
mkdir -p "$root$prefix"
touch "$root$prefix/.portico"
"$python" -m venv --clear "$root$prefix"
touch "$root$prefix/.portico"
pip="$root$prefix/bin/python -m pip install --quiet --disable-pip-version-check"
$pip --require-hashes -r "$here/../requirements/runtime.txt"
$pip --no-deps "$wheel"
if [ -n "$root" ]; then
    # Scripts name the interpreter where they will run, not where they were made.
    grep -rlI "$root$prefix" "$root$prefix/bin" "$root$prefix/pyvenv.cfg" | xargs -r sed -i "s|$root$prefix|$prefix|g"
fi

echo "==> $bin/portico and the systemd units"
mkdir -p "$root$bin" "$root$units"
ln -sfn "$prefix/bin/portico" "$root$bin/portico"
for unit in $names; do
    sed "s|/usr/bin/portico|$prefix/bin/portico|; s|/usr/bin/python3|$prefix/bin/python|" \
        "$root$prefix"/lib/python*/site-packages/portico/systemd/$unit.service >"$root$units/$unit.service"
done
mkdir -p "$root$accounts"
cp "$here/sysusers.d/portico.conf" "$root$accounts/portico.conf"
# The processes run under them, before there are settings or an identity.
[ -n "$root" ] || make_accounts
reload
echo "Installed. Next, as root: portico server install (on a server) or portico client enrol TOKEN (on a client)"

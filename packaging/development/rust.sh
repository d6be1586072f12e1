#!/bin/sh
# rust.sh : prints the directory of a cargo that can build Portico; installs Debian's where there is none.
#
# The order: cargo in PATH, then rustup's default place, then Debian 12's rustc-web (its plain rustc is too old).
set -eu
here=$(dirname "$0")
needed=$(sed -n 's/^rust-version = "\([0-9.]*\)"/\1/p' "$here/../../Cargo.toml")

new_enough() {
    version=$("$1/rustc" --version 2>/dev/null | awk '{ print $2 }')
    [ -n "$version" ] && [ -x "$1/cargo" ] && [ "$(printf '%s\n%s\n' "$needed" "$version" | sort -V | head -n 1)" = "$needed" ]
}

find_cargo() {
    in_path=$(command -v cargo || true)
    for directory in ${in_path:+"$(dirname "$in_path")"} "${CARGO_HOME:-$HOME/.cargo}/bin" /usr/bin; do
        if new_enough "$directory"; then
            echo "$directory"
            return 0
        fi
    done
    return 1
}

find_cargo && exit 0
echo "No Rust $needed or newer was found: installing Debian's rustc-web and cargo-web." >&2
"$here/debian-packages.sh" rust >&2
find_cargo && exit 0
echo "Rust $needed or newer is needed and Debian's packages are older (security updates off?): install it with rustup." >&2
exit 1

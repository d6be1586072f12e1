#!/bin/sh
# fuzz.sh SECONDS [TARGET...] : runs every fuzz target (or those named) for so many seconds each.
#
# What is found that is new goes to gateway/fuzz/found/TARGET and is where the next run starts from; an input that
# breaks something goes to gateway/fuzz/artifacts/TARGET and fails the run once all targets had their time.
# Needs a nightly compiler (rustup) and cargo-fuzz; the ordinary tests replay the committed corpora without either.
set -eu
cd "$(dirname "$0")/../../gateway/fuzz"
seconds=$1
shift

rustc +nightly --version >/dev/null 2>&1 || {
    echo "Fuzzing needs a nightly compiler: rustup toolchain install nightly --profile minimal" >&2
    exit 1
}
command -v cargo-fuzz >/dev/null || {
    echo "Fuzzing needs cargo-fuzz: cargo install cargo-fuzz --locked --version 0.13.2" >&2
    exit 1
}

[ $# -gt 0 ] || set -- $(sed -n 's/^name = "\([a-z0-9_]*\)"$/\1/p' Cargo.toml)
cargo +nightly fuzz build
failed=
for target in "$@"; do
    mkdir -p "found/$target" "artifacts/$target"
    echo "==> $target, $seconds s"
    log=artifacts/$target/last-run.log
    if cargo +nightly fuzz run "$target" "found/$target" "corpus/$target" -- \
        -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 >"$log" 2>&1; then
        grep -E '^#[0-9]+.*DONE' "$log" | tail -n 1
    else
        failed="$failed $target"
        grep -E 'panicked|ERROR|SUMMARY' -A 2 "$log" | head -n 12
    fi
done
[ -n "$failed" ] || exit 0

echo
echo "Broken:$failed. One input again, with its backtrace:"
for target in $failed; do
    for input in artifacts/"$target"/*-*; do
        case $input in *last-run.log | *'*'*) continue ;; esac
        echo "  (cd gateway/fuzz && cargo +nightly fuzz run $target $input)"
    done
done
echo "Mend it, then keep the input as a seed with a name that says what it was: gateway/fuzz/corpus/TARGET/NAME."
exit 1

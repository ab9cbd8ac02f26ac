#!/bin/sh
# Where the server's CPU goes under load: samples it with perf while create-events sends, and prints
# the shares of what it does, as a table. Arguments go to create-events; STORE is embedded unless
# set. Needs Linux and perf.
set -eu
cd "$(dirname "$0")/.."
command -v perf >/dev/null || { echo "profile: install perf first (Debian: linux-perf)" >&2; exit 1; }
RUSTFLAGS="${RUSTFLAGS:-} -C force-frame-pointers=yes" \
    ${CARGO:-cargo} build --locked --profile profiling --bin catchall
${CARGO:-cargo} build --locked --release --bin create-events

work=$(mktemp -d -p target)
CATCHALL__TELEMETRY__LOGS__FORMAT=json target/profiling/catchall serve \
    --listen 127.0.0.1:0 --data "$work/data" --store "${STORE:-embedded}" 2>"$work/log" &
server=$!
trap 'kill $server; wait $server || true; rm -rf "$work"' EXIT
until address=$(sed -n 's/.*"serving".*"address":"\([^"]*\)".*/\1/p;s/.*"address":"\([^"]*\)".*"serving".*/\1/p' "$work/log") &&
    [ -n "$address" ]; do
    kill -0 $server
    sleep 0.1
done

# Once to fill the store, once to be watched.
target/release/create-events --url "http://$address" "$@" >/dev/null 2>&1
perf record --quiet --event cpu-clock --freq 1999 --call-graph fp,64 --pid $server \
    --output "$work/perf" -- target/release/create-events --url "http://$address" "$@" >"$work/report" 2>&1
grep -E 'stream|connections|rate' "$work/report"
perf script --input "$work/perf" --fields comm,ip,sym 2>/dev/null | awk -f scripts/profile.awk

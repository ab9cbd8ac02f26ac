#!/bin/sh
# How many instructions of the server's own (none of the kernel's) an event takes, and which of our
# functions take them, what they call included: counted by callgrind, so that they are the same on any
# machine, while create-events sends single PUTs to the store in memory. Without optimisation over crates,
# which would mix functions up. Settings come from the environment as always. Needs valgrind.
set -eu
cd "$(dirname "$0")/.."
command -v valgrind >/dev/null || { echo "instructions: install valgrind first" >&2; exit 1; }
export CARGO_PROFILE_PROFILING_LTO=off CARGO_PROFILE_PROFILING_CODEGEN_UNITS=16
${CARGO:-cargo} build --locked --profile profiling --bin catchall --bin create-events

events=10000
work=$(mktemp -d -p target)
CATCHALL__TELEMETRY__LOGS__FORMAT=json CATCHALL__HTTP__WORKERS=1 \
    valgrind --quiet --tool=callgrind --callgrind-out-file="$work/counts" \
    target/profiling/catchall serve --listen 127.0.0.1:0 --store memory 2>"$work/log" &
server=$!
trap 'kill -9 $server 2>/dev/null || true; wait $server 2>/dev/null || true; rm -rf "$work"' EXIT
until address=$(sed -n 's/.*"serving".*"address":"\([^"]*\)".*/\1/p' "$work/log") && [ -n "$address" ]; do
    kill -0 $server
    sleep 0.1
done
send() {
    target/profiling/create-events --url "http://$address" --events $events --connections 4 "$@" >/dev/null 2>&1
}

# Once to fill the store, once to be counted.
send "$@"
callgrind_control --zero $server >/dev/null
send "$@"
callgrind_control --dump $server >/dev/null
# A function that is inlined stands once for each file that it is made of: the largest is it.
callgrind_annotate --inclusive=yes --threshold=100 --auto=no "$work/counts.1" | tr -d , | awk -v events=$events '
    /PROGRAM TOTALS/ { total = $1 / events }
    /^ *[0-9]+ .*:<*(api|business|adapters|foundation)::/ {
        each = $1 / events
        sub(/ \[.*/, "")
        sub(/^[^:]*:/, "")
        if (each > most[$0]) most[$0] = each
    }
    END {
        printf "%8.0f instructions an event\n", total
        sort = "sort -nr | head -30"
        for (name in most) printf "%8.0f %s\n", most[name], name | sort
        close(sort)
    }'

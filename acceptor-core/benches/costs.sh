#!/usr/bin/env bash
# What calls on a pool cost, by the number of its children: instructions by callgrind, and two figures measured directly.
#
# Needs valgrind. In memory, on one thread; takes a few minutes and stops by itself.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cargo build --quiet --release -p acceptor-core --bench costs
bench=$(cargo build --quiet --release -p acceptor-core --bench costs --message-format json | sed -n 's/.*"executable":"\([^"]*costs[^"]*\)".*/\1/p' | tail -n 1)

instructions() { # WHAT NUMBER TIMES
    valgrind --tool=callgrind --collect-atstart=no --toggle-collect='costs::measured*' \
        --callgrind-out-file="$work/callgrind" "$bench" "$1" "$2" >"$work/out" 2>"$work/err" || { cat "$work/err" >&2; exit 1; }
    awk -v times="$3" '/^totals:/ { printf "%d", $2 / times }' "$work/callgrind"
}

compare() { # TITLE WHAT FEW MANY TIMES
    local few many
    few=$(instructions "$2" "$3" "$5")
    many=$(instructions "$2" "$4" "$5")
    awk -v title="$1" -v few="$few" -v many="$many" -v a="$3" -v b="$4" 'BEGIN {
        printf "%-52s %9d with %d, %9d with %d: %.3f times\n", title, few, a, many, b, many / few
    }'
}

echo "instructions"
compare "close of a listener, connections of another" close-beside-connections 10 200000 100
compare "close of a listener, listeners" close-of-many 200 20000 100
compare "an accept timeout, acceptors that wait" timeout 110 60000 100
compare "kill(), connections" kill 10 200000 1
compare "stop(), connections" stop 10 200000 1
compare "drop of the owner, connections" drop 10 200000 1
compare "add_listener(), acceptors" add 10 65536 1
"$bench" counts 200000
"$bench" heap 200000

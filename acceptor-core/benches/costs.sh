#!/usr/bin/env bash
# The cost of calls on a pool, by the number of its children: instructions counted by callgrind, and two direct measurements.
# The cost of an event (a begin or an end of a connection), by the number of children and of listeners; the memory of each of
# these; and the cost of stopping a million connections.
#
# COSTS=calls, events, memory or stop selects one of them. CPU time is that of one thread, the median of five runs.
#
# Needs valgrind, and 5 GB of memory. In memory, on one thread; takes a quarter of an hour and stops by itself. What it
# prints of events, memory and the stop is also written to target/costs.json.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=acceptor-core/benches/common.sh
source acceptor-core/benches/common.sh
measure=${COSTS:-all}
touch "$work/results"
# Built like a user's release build.
export CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS=false
bench=$(cargo build --quiet --release -p acceptor-core --bench costs --message-format json-render-diagnostics | sed -n 's/.*"executable":"\([^"]*costs[^"]*\)".*/\1/p' | tail -n 1)

instructions() { # WHAT NUMBER TIMES
    in_callgrind --collect-atstart=no --toggle-collect='costs::measured*' "$bench" "$1" "$2"
    instructions_each "$3"
}

compare() { # TITLE WHAT FEW MANY TIMES
    local few many
    few=$(instructions "$2" "$3" "$5")
    many=$(instructions "$2" "$4" "$5")
    awk -v title="$1" -v few="$few" -v many="$many" -v a="$3" -v b="$4" 'BEGIN {
        printf "%-52s %9d with %d, %9d with %d: %.3f times\n", title, few, a, many, b, many / few
    }'
}

result() { # WHAT NUMBER MEASURE FIGURE
    printf '{"what":"%s","number":%s,"measure":"%s","figure":%s}\n' "$@" >>"$work/results"
}

events() { # TITLE WHAT NUMBER
    local instructions each_second
    instructions=$(instructions "$2" "$3" 2000)
    five_times "$bench" "$2" "$3" 500000
    each_second=$(median events_a_second)
    result "$2" "$3" instructions "$instructions"
    result "$2" "$3" events-a-second "$each_second"
    printf '  %-52s %9d instructions, %9d events a second\n' "$1" "$instructions" "$each_second"
}

memory() { # TITLE WHAT NUMBER
    "$bench" "$2" "$3" >"$work/out"
    while read -r name figure; do result "$2" "$3" "$name" "$figure"; done <"$work/out"
    awk -v title="$1" '
        { figures[$1] = $2 }
        END {
            bare = figures["bytes_each_bare"]
            more = bare ? sprintf(", %.0f more than a bare task", figures["bytes_each"] - bare) : ""
            printf "  %-52s %9.0f bytes%s\n", title, figures["bytes_each"], more
        }' "$work/out"
}

stop() { # TITLE WHAT
    local number instructions seconds
    for number in 100000 1000000; do
        instructions=$(instructions "$2" "$number" "$number")
        five_times "$bench" "$2" "$number"
        seconds=$(median cpu_seconds)
        result "$2" "$number" instructions "$instructions"
        result "$2" "$number" cpu-seconds "$seconds"
        echo "$number $instructions $seconds"
    done | awk -v title="$1" '
        { text = text sprintf("%s %5d instructions and %.3f s with %d", NR > 1 ? "," : "", $2, $3, $1); seconds[NR] = $3 }
        END { printf "  %-52s%s: %.2f times the time\n", title, text, seconds[2] / seconds[1] }'
}

if measures calls; then
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
fi
if measures events; then
    echo "an event: the beginning or the end of a connection"
    for number in 1 1000 1000000; do events "bare tasks, $number open" events-bare "$number"; done
    for number in 1 1000 1000000; do events "connections, $number open" events-children "$number"; done
    for number in 1 1000 1000000; do events "acceptors, $number waiting" events-acceptors "$number"; done
    for number in 1 100 10000; do events "listeners, $number of them in turn" events-listeners "$number"; done
fi
if measures memory; then
    echo "live heap"
    for number in 1000 1000000; do memory "a connection, of $number" memory-connection "$number"; done
    for number in 1000 1000000; do memory "an acceptor that waits, of $number" memory-acceptor "$number"; done
    for number in 100 10000; do memory "a listener with one acceptor, of $number" memory-listener "$number"; done
fi
if measures stop; then
    echo "a stop, for each connection, and in CPU time of all"
    stop "bare tasks that end" stop-bare
    stop "connections that leave as the pool drains" stop-drained
    stop "connections that leave at the stop signal" stop-signal
    stop "connections that are dropped" stop-dropped
fi
write_results target/costs.json

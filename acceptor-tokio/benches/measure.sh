#!/usr/bin/env bash
# What the pool costs on the accept path, against the bare accept loop of the same runtime in the same run.
#
#   acceptor-tokio/benches/measure.sh [RUNTIME ...]      tokio, smol and async-std, unless some of them are named
#
# For each connection, which is echoed 16 bytes: user instructions and allocations (callgrind), system calls (strace), each as the
# difference of two run lengths, so that start and end cancel out; and resident memory, with thousands of them open, and of each
# acceptor that waits. There is one paced client, which pauses before each step, or 64 at once. A client without pauses
# would measure how often the server happens to sleep. All tasks of a server run on one thread.
#
# On tokio also: instructions of one more connection beside 15,000 that are open, and with 10,000 listeners; a stop of a million
# connections in memory; and CPU time, user and system, in pairs of runs, bare loop and pool in turn. Of the ratios of 11 pairs the
# median is given, and as its upper bound the ninth in order: the true median is below it with 96.7 %, whatever the noise. How far
# two bare loops are apart, measured in the same way in the same rounds, is the noise.
#
# MEASURE=instructions, calls, memory, scale, million or cpu measures only that; ACCEPTORS ("1 10 1000 65536") says with how many, of
# which a listener has at most 65,536. glibc's malloc moves the instructions by some hundreds with the state of the heap. On smol and async-std a
# thread of async-io takes a turn at the sockets now and then, which adds a call of futex and moves one of epoll.
#
# Needs strace, valgrind and, for memory, 5,000 open files; for what is open at scale 15,200, or it says how many there were. Local connections only; a runtime takes some minutes, and the script stops
# by itself. What it prints is also written to target/measure.json.
set -euo pipefail
cd "$(dirname "$0")/../.."
export LC_ALL=C
runtimes=("$@")
if [ $# -eq 0 ]; then runtimes=(tokio smol async-std); fi
read -ra numbers <<<"${ACCEPTORS:-1 10 1000 65536}"
measure=${MEASURE:-all}
json=target/measure.json
scale=acceptor-tokio/benches/scale.sh
work=$(mktemp -d)
touch "$work/results"
server=
trap 'if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; fi; rm -rf "$work"' EXIT

export ASYNC_STD_THREAD_COUNT=1
# As the release of whoever uses the pool is built, which is what is measured.
export CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS=false
packages=(-p acceptor-tokio --example bench_client)
for runtime in "${runtimes[@]}"; do
    packages+=(-p "acceptor-$runtime" --example "${runtime//-/_}_bare" --example "${runtime//-/_}_pool")
    if [ "$runtime" = tokio ]; then packages+=(--example tokio_million); fi
done
cargo build --quiet --release "${packages[@]}"
bin=$(cargo metadata --format-version 1 --no-deps | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')/release/examples

result() { # RUNTIME SERVER ACCEPTORS BUFFER AT_ONCE WHAT FIGURE
    printf '{"runtime":"%s","server":"%s","acceptors":%s,"buffer":%s,"at_once":%s,"measure":"%s","figure":%s}\n' "$@" >>"$work/results"
}

# Starts a server, and leaves its address in `address` and its process in `server`.
start() { # PREFIX PROGRAM ARGUMENT ...
    local prefix=$1
    shift
    rm -f "$work/address"
    mkfifo "$work/address"
    $prefix "$@" >"$work/address" 2>"$work/stderr" &
    server=$!
    read -r address <"$work/address"
}

run() { # PREFIX AT_ONCE PAUSE CONNECTIONS PROGRAM ARGUMENT ...
    local prefix=$1 at_once=$2 pause=$3 connections=$4 program=$5
    shift 5
    start "$prefix" "$program" "$connections" "$@"
    "$bin/bench_client" "$address" "$connections" "$at_once" "$pause"
    wait "$server"
    server=
}

# Instructions, and calls of the allocator, of a whole run.
callgrind() { # AT_ONCE CONNECTIONS PROGRAM ARGUMENT ...
    local at_once=$1
    shift
    run "valgrind --tool=callgrind --callgrind-out-file=$work/callgrind" "$at_once" $((at_once > 1 ? 60000 : 4000)) "$@"
    awk '
        function name(text) {
            id = text; sub(/ .*/, "", id)
            if (text ~ / /) { sub(/^[^ ]* /, "", text); names[id] = text }
            return names[id]
        }
        /^fn=/ { name(substr($0, 4)) }
        /^cfn=/ { callee = name(substr($0, 5)) }
        /^calls=/ { if (callee ~ /^(malloc|calloc|realloc|posix_memalign|aligned_alloc)$/) { split(substr($0, 7), n, " "); allocations += n[1] } }
        /^totals:/ { instructions = $2 }
        END { printf "%d %d\n", instructions, allocations }' "$work/callgrind"
}

instructions() { # RUNTIME SERVER ACCEPTORS BUFFER AT_ONCE PROGRAM ARGUMENT ...
    local runtime=$1 name=$2 acceptors=$3 buffer=$4 at_once=$5 few many short long
    shift 5
    short=$((at_once > 1 ? 640 : 100)) long=$((at_once > 1 ? 3840 : 600))
    few=$(callgrind "$at_once" "$short" "$@")
    many=$(callgrind "$at_once" "$long" "$@")
    read -r each allocations < <(echo "$few $many" | awk -v n=$((long - short)) '{ printf "%.0f %.2f\n", ($3 - $1) / n, ($4 - $2) / n }')
    if [ "$name" = bare ]; then bare_instructions=$each; fi
    result "$runtime" "$name" "$acceptors" "$buffer" "$at_once" instructions "$each"
    result "$runtime" "$name" "$acceptors" "$buffer" "$at_once" allocations "$allocations"
    awk -v name="$name" -v acceptors="$acceptors" -v each="$each" -v allocations="$allocations" -v bare="$bare_instructions" 'BEGIN {
        if (name == "pool") name = name ", " acceptors " acceptors"
        if (name == "init") name = "pool, " acceptors ", async init"
        printf "  %-24s %8.0f instructions, %5.2f allocations: %.3f of the bare loop\n", name, each, allocations, each / bare
    }'
}

calls() { # CONNECTIONS PROGRAM ARGUMENT ...
    run "strace -f -c -S name -U name,calls -o $work/calls" 1 6000 "$@"
    awk 'NF == 2 && $2 ~ /^[0-9]+$/ && $1 != "total" { print $1, $2 }' "$work/calls" | sort
}

system_calls() { # RUNTIME SERVER ACCEPTORS PROGRAM ARGUMENT ...
    local runtime=$1 name=$2 acceptors=$3 short=100 long=600
    shift 3
    calls "$short" "$@" >"$work/short"
    calls "$long" "$@" >"$work/long"
    join -a 2 -e 0 -o 0,1.2,2.2 "$work/short" "$work/long" |
        awk -v n=$((long - short)) '{ each = ($3 - $2) / n; if (each >= 0.005 || each <= -0.005) printf "%s %.2f\n", $1, each }' >"$work/each"
    while read -r call each; do result "$runtime" "$name" "$acceptors" 64 1 "$call" "$each"; done <"$work/each"
    if [ "$name" = pool ]; then name="pool, $acceptors acceptors"; fi
    printf '  %-24s %s\n' "$name" "$(awk '{ printf "%s%s %s", (NR > 1 ? ", " : ""), $1, $2 }' "$work/each")"
}

resident() { # bytes of the server
    awk -v page="$(getconf PAGESIZE)" '{ printf "%d\n", $2 * page }' "/proc/$server/statm"
}

memory() { # RUNTIME SERVER ACCEPTORS PROGRAM ARGUMENT ...
    local runtime=$1 name=$2 acceptors=$3 count=4000 before after each client
    shift 3
    start "" "$@"
    before=$(resident)
    rm -f "$work/served" "$work/hold"
    mkfifo "$work/served" "$work/hold"
    "$bin/bench_client" "$address" "$count" "$count" 0 <"$work/hold" >"$work/served" &
    client=$!
    exec 3>"$work/hold"
    read -r _ <"$work/served"
    after=$(resident)
    exec 3>&-
    wait "$client"
    kill "$server"
    wait "$server" 2>/dev/null || true
    server=
    each=$(((after - before) / count))
    if [ "$name" = bare ]; then bare_memory=$each; fi
    result "$runtime" "$name" "$acceptors" 64 "$count" memory "$each"
    printf '  %-24s %6d bytes a connection: %+d\n' "$name" "$each" $((each - bare_memory))
}

waiting() { # RUNTIME PROGRAM
    local runtime=$1 program=$2 before now few=0 each
    for number in 1 65536; do
        start "" "$program" 100000000 64 "$number"
        "$bin/bench_client" "$address" 1 1 0
        # Until no more of them begin.
        before=0 now=$(resident)
        while [ "$now" -gt "$before" ]; do
            sleep 0.5
            before=$now now=$(resident)
        done
        kill "$server"
        wait "$server" 2>/dev/null || true
        server=
        if [ "$number" = 1 ]; then few=$now; fi
    done
    each=$(((now - few) / 65535))
    result "$runtime" pool 65536 64 1 memory-of-an-acceptor "$each"
    printf '  %-24s %6d bytes\n' "an acceptor that waits" "$each"
}

for runtime in "${runtimes[@]}"; do
    bare=$bin/${runtime//-/_}_bare pool=$bin/${runtime//-/_}_pool
    if [ "$measure" = all ] || [ "$measure" = calls ]; then
        echo "$runtime: system calls for each connection"
        system_calls "$runtime" bare 0 "$bare" 64
        for number in "${numbers[@]}"; do system_calls "$runtime" pool "$number" "$pool" 64 "$number"; done
        echo "$runtime: system calls for each connection, bound to a wildcard"
        system_calls "$runtime" pool 10 "$pool" 64 10 0.0.0.0:0
    fi
    if [ "$measure" = all ] || [ "$measure" = instructions ]; then
        for buffer in 1024 64; do
            for at_once in 1 64; do
                clients=$([ "$at_once" = 1 ] && echo "one paced client" || echo "$at_once clients at once")
                echo "$runtime: for each connection, $clients, a buffer of $buffer bytes"
                instructions "$runtime" bare 0 "$buffer" "$at_once" "$bare" "$buffer"
                for number in "${numbers[@]}"; do
                    instructions "$runtime" pool "$number" "$buffer" "$at_once" "$pool" "$buffer" "$number"
                done
                if [ "$runtime" = tokio ]; then instructions tokio init 10 "$buffer" "$at_once" "$pool" "$buffer" 10 init; fi
            done
        done
    fi
    if [ "$measure" = all ] || [ "$measure" = memory ]; then
        echo "$runtime: resident memory"
        memory "$runtime" bare 0 "$bare" 100000000 64
        memory "$runtime" pool 10 "$pool" 100000000 64 10
        waiting "$runtime" "$pool"
    fi
    if [ "$runtime" = tokio ]; then
        # shellcheck source=/dev/null
        source "$scale"
    fi
done
mkdir -p target
awk 'BEGIN { print "[" } { printf "%s  %s", (NR > 1 ? ",\n" : ""), $0 } END { print "\n]" }' "$work/results" >"$json"
echo "written to $json"

#!/usr/bin/env bash
# The cost of the pool on the accept path, compared with the bare accept loop of the same runtime in the same run.
#
#   acceptor-tokio/benches/measure.sh [RUNTIME ...]      default: tokio smol async-std
#
# Per connection, which echoes 16 bytes: user instructions and allocations (callgrind), system calls (strace), each as the
# difference between two run lengths, so that start and end cancel out; and resident memory, with thousands of them open, and of
# each waiting acceptor. There is one paced client, which pauses before each step, or 64 at once. A client without pauses
# would measure how often the server happens to sleep. All tasks of a server run on one thread.
#
# On tokio also: instructions of one more connection with 15,000 open, and with 10,000 listeners; a stop of a million
# connections in memory; and CPU time, user and system, in pairs of runs, bare loop and pool in turn. The ratio is the median of
# 11 pairs, and its upper bound the ninth in order: the true median is below it with a probability of 96.7 %, whatever the noise.
# The noise is the ratio of two bare loops, measured in the same way in the same rounds.
#
# MEASURE=instructions, calls, memory, scale, million or cpu selects one of them; ACCEPTORS ("1 10 1000 65536") sets the numbers of
# acceptors, at most 65,536 per listener. The state of glibc's heap changes the instructions by some hundreds. On smol and
# async-std a thread of async-io sometimes polls the sockets, which adds a futex call and moves an epoll call.
#
# Needs strace, valgrind and 5,000 open files for memory; 15,200 for scale, or it reports how many it used. Local connections
# only; a runtime takes some minutes, and the script stops by itself. The results are also written to target/measure.json.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=acceptor-core/benches/common.sh
source acceptor-core/benches/common.sh
runtimes=("$@")
if [ $# -eq 0 ]; then runtimes=(tokio smol async-std); fi
read -ra numbers <<<"${ACCEPTORS:-1 10 1000 65536}"
measure=${MEASURE:-all}
touch "$work/results"
# Built like a user's release build.
export CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS=false
packages=(-p acceptor-tokio --example bench_client)
for runtime in "${runtimes[@]}"; do
    packages+=(-p "acceptor-$runtime" --example "${runtime//-/_}_bare" --example "${runtime//-/_}_pool")
    if [ "$runtime" = tokio ]; then packages+=(--example tokio_million); fi
done
cargo build --quiet --release "${packages[@]}"
bin=$target_dir/release/examples client=$bin/bench_client

result() { # RUNTIME SERVER ACCEPTORS BUFFER AT_ONCE WHAT FIGURE
    printf '{"runtime":"%s","server":"%s","acceptors":%s,"buffer":%s,"at_once":%s,"measure":"%s","figure":%s}\n' "$@" >>"$work/results"
}

# Instructions and allocator calls of a whole run.
count() { # AT_ONCE CONNECTIONS PROGRAM ARGUMENT ...
    local at_once=$1 program=$3
    shift
    run "$callgrind" "$at_once" $((at_once > 1 ? 60000 : 4000)) "$@"
    echo "$(instructions_each 1) $(read_profile "$program" "$work/callgrind" | awk -F '\t' '$1 == "total" && $2 == "allocations" { print $3 }')"
}

instructions() { # RUNTIME SERVER ACCEPTORS BUFFER AT_ONCE PROGRAM ARGUMENT ...
    local runtime=$1 name=$2 acceptors=$3 buffer=$4 at_once=$5 few many short long
    shift 5
    short=$((at_once > 1 ? 640 : 100)) long=$((at_once > 1 ? 3840 : 600))
    few=$(count "$at_once" "$short" "$@")
    many=$(count "$at_once" "$long" "$@")
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

calls_of() { # RUNTIME SERVER ACCEPTORS PROGRAM ARGUMENT ...
    local runtime=$1 name=$2 acceptors=$3
    shift 3
    system_calls 100 600 "$@" >"$work/each"
    while read -r call each; do result "$runtime" "$name" "$acceptors" 64 1 "$call" "$each"; done <"$work/each"
    if [ "$name" = pool ]; then name="pool, $acceptors acceptors"; fi
    printf '  %-24s %s\n' "$name" "$(awk '{ printf "%s%s %s", (NR > 1 ? ", " : ""), $1, $2 }' "$work/each")"
}

resident() { # bytes of the server
    awk -v page="$(getconf PAGESIZE)" '{ printf "%d\n", $2 * page }' "/proc/$server/statm"
}

memory() { # RUNTIME SERVER ACCEPTORS PROGRAM ARGUMENT ...
    local runtime=$1 name=$2 acceptors=$3 count=4000 before after each holds
    shift 3
    start "" "$@"
    before=$(resident)
    rm -f "$work/served" "$work/hold"
    mkfifo "$work/served" "$work/hold"
    "$client" "$address" "$count" "$count" 0 <"$work/hold" >"$work/served" &
    holds=$!
    exec 3>"$work/hold"
    read -r _ <"$work/served"
    after=$(resident)
    exec 3>&-
    wait "$holds"
    stop_server
    each=$(((after - before) / count))
    if [ "$name" = bare ]; then bare_memory=$each; fi
    result "$runtime" "$name" "$acceptors" 64 "$count" memory "$each"
    printf '  %-24s %6d bytes a connection: %+d\n' "$name" "$each" $((each - bare_memory))
}

waiting() { # RUNTIME PROGRAM
    local runtime=$1 program=$2 before now few=0 each
    for number in 1 65536; do
        start "" "$program" 100000000 64 "$number"
        "$client" "$address" 1 1 0
        # Until no more acceptors begin.
        before=0 now=$(resident)
        while [ "$now" -gt "$before" ]; do
            sleep 0.5
            before=$now now=$(resident)
        done
        stop_server
        if [ "$number" = 1 ]; then few=$now; fi
    done
    each=$(((now - few) / 65535))
    result "$runtime" pool 65536 64 1 memory-of-an-acceptor "$each"
    printf '  %-24s %6d bytes\n' "a waiting acceptor" "$each"
}

# Instructions of one more paced connection, with NUMBER others open; callgrind resets its counters after the first 256.
beside() { # WHAT SETTING NUMBER ...
    local what=$1 setting=$2 measured=512 number name each
    local -A few=()
    export WARM=256
    shift 2
    for number in "$@"; do
        export "$setting=$number"
        for name in bare pool; do
            local program=$bare arguments=(64)
            if [ "$name" = pool ]; then program=$pool arguments=(64 10); fi
            run "$callgrind --zero-before=*measured_from_here*" 1 4000 $((WARM + measured)) "$program" "${arguments[@]}"
            each=$(instructions_each "$measured")
            result tokio "$name" "${arguments[1]:-0}" 64 1 "instructions-beside-$number-$what" "$each"
            : "${few[$name]:=$each}"
            awk -v name="$name, $number $what" -v each="$each" -v few="${few[$name]}" 'BEGIN {
                printf "  %-36s %8.0f instructions: %.3f of those with the fewest\n", name, each, each / few
            }'
        done
    done
    unset WARM "$setting"
}

# The server's CPU time so far, user and system, over all threads, in nanoseconds.
server_cpu() {
    cat /proc/"$server"/task/*/schedstat | awk '{ sum += $1 } END { printf "%d\n", sum }'
}

# CPU time per connection, in nanoseconds; the server runs on one core and the client on another, if there are two.
cpu_time() { # PROGRAM ARGUMENT ...
    local connections=20000 before after program=$1
    local -a pinned=()
    shift
    if [ "${WORKERS:-0}" = 0 ] && [ "$(nproc)" -gt 1 ] && command -v taskset >/dev/null; then pinned=(taskset -c); fi
    start "${pinned[*]}${pinned[*]:+ 0}" "$program" 100000000 "$@"
    "$client" "$address" 2048 64 0
    before=$(server_cpu)
    ${pinned[@]:+"${pinned[@]}" 1} "$client" "$address" "$connections" 64 0
    after=$(server_cpu)
    stop_server
    echo $(((after - before) / connections))
}

cpu() { # TITLE BUFFER ACCEPTORS
    local pairs=11 i bare_cpu pool_cpu again
    for ((i = 0; i < pairs; i++)); do
        # The order alternates.
        if ((i % 2)); then
            pool_cpu=$(cpu_time "$pool" "$2" "$3")
            bare_cpu=$(cpu_time "$bare" "$2")
        else
            bare_cpu=$(cpu_time "$bare" "$2")
            pool_cpu=$(cpu_time "$pool" "$2" "$3")
        fi
        again=$(cpu_time "$bare" "$2")
        echo "$bare_cpu $pool_cpu $again"
    done >"$work/pairs"
    # Fields of the results: a figure of 1.05 is a ratio.
    while read -r name figure; do
        result tokio pool "$3" "$2" 64 "$name-${WORKERS:-0}-workers" "$figure"
    done < <(awk '
        function sorted(from, to,   i, j, t) {
            for (i = 1; i <= NR; i++) to[i] = from[i]
            for (i = 2; i <= NR; i++) for (j = i; j > 1 && to[j - 1] > to[j]; j--) { t = to[j]; to[j] = to[j - 1]; to[j - 1] = t }
        }
        { bare[NR] = $1; pool[NR] = $2; ratio[NR] = $2 / $1; noise[NR] = $3 / $1 }
        END {
            middle = (NR + 1) / 2
            sorted(bare, b); sorted(pool, p); sorted(ratio, r); sorted(noise, n)
            print "cpu-bare-nanoseconds", b[middle]; print "cpu-pool-nanoseconds", p[middle]
            printf "cpu-ratio %.4f\ncpu-ratio-upper-bound %.4f\ncpu-ratio-least %.4f\ncpu-ratio-most %.4f\n", r[middle], r[9], r[1], r[NR]
            printf "cpu-noise-ratio %.4f\ncpu-noise-upper-bound %.4f\ncpu-noise-least %.4f\ncpu-noise-most %.4f\n", n[middle], n[9], n[1], n[NR]
        }' "$work/pairs" | tee "$work/cpu")
    awk -v title="$1" '
        { f[$1] = $2 }
        END {
            printf "  %-36s %.1f us, bare %.1f us: %.3f of the bare loop, at most %.3f (%.3f to %.3f)\n", title,
                f["cpu-pool-nanoseconds"] / 1000, f["cpu-bare-nanoseconds"] / 1000,
                f["cpu-ratio"], f["cpu-ratio-upper-bound"], f["cpu-ratio-least"], f["cpu-ratio-most"]
            printf "  %-36s %.3f of the bare loop, at most %.3f (%.3f to %.3f)\n", "  another bare loop, as the noise",
                f["cpu-noise-ratio"], f["cpu-noise-upper-bound"], f["cpu-noise-least"], f["cpu-noise-most"]
        }' "$work/cpu"
}

# A stop of many connections in memory: the median CPU time of five runs; and, except for the largest, the instructions of one.
million() { # WAY NUMBER
    local way=$1 number=$2 name each=
    local -A medians
    if [ "$number" -le 300000 ]; then
        in_callgrind '--zero-before=*measured_from_here*' "$bin/tokio_million" "$way" "$number"
        each=$(instructions_each "$number")
        result tokio "$way" 10 0 "$number" stop-instructions "$each"
    fi
    five_times "$bin/tokio_million" "$way" "$number"
    for name in bytes_each start_cpu_seconds stop_cpu_seconds; do
        medians[$name]=$(median "$name")
        result tokio "$way" 10 0 "$number" "$name" "${medians[$name]}"
    done
    printf '  %-24s %.3f s of CPU, and %.3f s to begin; %d bytes each%s\n' "$way, $number" \
        "${medians[stop_cpu_seconds]}" "${medians[start_cpu_seconds]}" "${medians[bytes_each]}" "${each:+; $each instructions each}"
}

for runtime in "${runtimes[@]}"; do
    bare=$bin/${runtime//-/_}_bare pool=$bin/${runtime//-/_}_pool
    if measures calls; then
        echo "$runtime: system calls for each connection"
        calls_of "$runtime" bare 0 "$bare" 64
        for number in "${numbers[@]}"; do calls_of "$runtime" pool "$number" "$pool" 64 "$number"; done
        echo "$runtime: system calls for each connection, bound to a wildcard"
        calls_of "$runtime" pool 10 "$pool" 64 10 0.0.0.0:0
    fi
    if measures instructions; then
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
    if measures memory; then
        echo "$runtime: resident memory"
        memory "$runtime" bare 0 "$bare" 100000000 64
        memory "$runtime" pool 10 "$pool" 100000000 64 10
        waiting "$runtime" "$pool"
    fi
    if [ "$runtime" != tokio ]; then continue; fi
    if measures scale; then
        ulimit -n "$(ulimit -Hn)"
        limit=$(ulimit -n)
        if [ "$limit" = unlimited ]; then limit=$((1 << 20)); fi
        most=$((limit < 15200 ? limit - 200 : 15000)) listeners=$((limit < 10200 ? limit - 200 : 10000))
        # Paced, not in bursts: with many open, the client connects more slowly, and the server accepts in smaller bursts.
        echo "tokio: one more connection, one paced client, beside others that are open"
        beside connections OPEN 0 1000 "$most"
        echo "tokio: one more connection, one paced client, at a hundred listeners at most in turn"
        beside listeners LISTENERS 1 100 "$listeners"
    fi
    if measures million; then
        echo "tokio: a stop of connections in memory"
        for way in bare drained signal dropped killed; do
            for number in 100000 300000 1000000; do million "$way" "$number"; done
        done
    fi
    if measures cpu; then
        echo "tokio: CPU time for each connection, 64 clients at once"
        cpu "pool, 10 acceptors, one thread" 1024 10
        WORKERS=2 cpu "pool, 10 acceptors, 2 workers" 1024 10
    fi
done
write_results target/measure.json

# The part of measure.sh that is about many connections and many listeners, and about CPU time. It is read by measure.sh, and uses
# its functions.
# shellcheck shell=bash disable=SC2154

# Instructions of each connection once the first 256 have ended: callgrind forgets what came before.
warm_instructions() { # AT_ONCE PROGRAM ARGUMENT ...
    local at_once=$1 program=$2 warm=256 measured=2560 pause
    shift 2
    if [ "$at_once" = 1 ]; then measured=512; fi
    pause=$((at_once > 1 ? 60000 : 4000))
    WARM=$warm run "valgrind --tool=callgrind --zero-before=*measured_from_here* --callgrind-out-file=$work/callgrind" \
        "$at_once" "$pause" $((warm + measured)) "$program" "$@"
    awk -v n="$measured" '/^totals:/ { printf "%.0f\n", $2 / n }' "$work/callgrind"
}

beside() { # WHAT NUMBER AT_ONCE PROGRAM ARGUMENT ...
    local what=$1 number=$2 at_once=$3 name each
    shift 3
    name=${1##*_}
    each=$(warm_instructions "$at_once" "$@")
    result tokio "$name" "${3:-0}" "$2" "$at_once" "instructions-beside-$number-$what" "$each"
    if [ -z "${few[$name]:-}" ]; then few[$name]=$each; fi
    awk -v name="$name, $number $what" -v each="$each" -v few="${few[$name]}" 'BEGIN {
        printf "  %-36s %8.0f instructions: %.3f of those with the fewest\n", name, each, each / few
    }'
}

# The server's CPU time so far, user and system, of all threads, in nanoseconds.
server_cpu() {
    cat /proc/"$server"/task/*/schedstat | awk '{ sum += $1 } END { printf "%d\n", sum }'
}

# CPU time for each connection, in nanoseconds; the server runs on one core and the client on another, if there are two.
cpu_time() { # PROGRAM ARGUMENT ...
    local connections=20000 before after program=$1
    local -a pinned=()
    shift
    if [ "${WORKERS:-0}" = 0 ] && [ "$(nproc)" -gt 1 ] && command -v taskset >/dev/null; then pinned=(taskset -c); fi
    start "${pinned[*]}${pinned[*]:+ 0}" "$program" 100000000 "$@"
    "$bin/bench_client" "$address" 2048 64 0
    before=$(server_cpu)
    ${pinned[@]:+"${pinned[@]}" 1} "$bin/bench_client" "$address" "$connections" 64 0
    after=$(server_cpu)
    kill "$server"
    wait "$server" 2>/dev/null || true
    server=
    echo $(((after - before) / connections))
}

cpu() { # TITLE BUFFER ACCEPTORS
    local pairs=11 i bare_cpu pool_cpu again
    for ((i = 0; i < pairs; i++)); do
        # Which one comes first alternates.
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
    # The fields of results: a figure of 1.05 is a ratio.
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

# A stop of many in memory: the median of the CPU time of five runs; and, but for the most, instructions of one.
million() { # WAY NUMBER
    local way=$1 number=$2 each=
    if [ "$number" -le 300000 ]; then
        valgrind --tool=callgrind '--zero-before=*measured_from_here*' --callgrind-out-file="$work/callgrind" \
            "$bin/tokio_million" "$way" "$number" >"$work/out" 2>"$work/err" || { tail -n 40 "$work/err" >&2; exit 1; }
        each=$(awk -v n="$number" '/^totals:/ { printf "%.0f\n", $2 / n }' "$work/callgrind")
        result tokio "$way" 10 0 "$number" stop-instructions "$each"
    fi
    for _ in 1 2 3 4 5; do "$bin/tokio_million" "$way" "$number"; done >"$work/out"
    for name in bytes_each start_cpu_seconds stop_cpu_seconds; do
        awk -v name="$name" '$1 == name { print $2 }' "$work/out" | sort -g | sed -n 3p >"$work/$name"
        result tokio "$way" 10 0 "$number" "$name" "$(cat "$work/$name")"
    done
    printf '  %-24s %.3f s of CPU, and %.3f s to begin; %d bytes each%s\n' "$way, $number" \
        "$(cat "$work/stop_cpu_seconds")" "$(cat "$work/start_cpu_seconds")" "$(cat "$work/bytes_each")" \
        "${each:+; $each instructions each}"
}

if [ "$measure" = all ] || [ "$measure" = scale ]; then
    ulimit -n "$(ulimit -Hn)"
    limit=$(ulimit -n) most=15000 listeners=10000
    if [ "$limit" != unlimited ] && [ "$limit" -lt $((most + 200)) ]; then most=$((limit - 200)); fi
    if [ "$limit" != unlimited ] && [ "$limit" -lt $((listeners + 200)) ]; then listeners=$((limit - 200)); fi
    # A burst would not do: with many open the client is slower to connect, and the server accepts in smaller ones.
    echo "tokio: one more connection, one paced client, beside others that are open"
    declare -A few=()
    for number in 0 1000 "$most"; do
        export OPEN=$number
        beside connections "$number" 1 "$bare" 64
        beside connections "$number" 1 "$pool" 64 10
    done
    unset OPEN
    echo "tokio: one more connection, one paced client, at a hundred listeners at most in turn"
    few=()
    for number in 1 100 "$listeners"; do
        export LISTENERS=$number
        beside listeners "$number" 1 "$bare" 64
        beside listeners "$number" 1 "$pool" 64 10
    done
    unset LISTENERS
fi
if [ "$measure" = all ] || [ "$measure" = million ]; then
    echo "tokio: a stop of connections in memory"
    for way in bare drained signal dropped killed; do
        for number in 100000 300000 1000000; do million "$way" "$number"; done
    done
fi
if [ "$measure" = all ] || [ "$measure" = cpu ]; then
    echo "tokio: CPU time for each connection, 64 clients at once"
    cpu "pool, 10 acceptors, one thread" 1024 10
    export WORKERS=2
    cpu "pool, 10 acceptors, 2 workers" 1024 10
    unset WORKERS
fi

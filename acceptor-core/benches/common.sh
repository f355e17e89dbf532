# Functions shared by measure.sh of acceptor-tokio, costs.sh and .ci/counts; each sources it in the workspace root.
# shellcheck shell=bash disable=SC2154

export LC_ALL=C ASYNC_STD_THREAD_COUNT=1
work=$(mktemp -d)
server=
trap 'if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; fi; rm -rf "$work"' EXIT
target_dir=$(cargo metadata --format-version 1 --no-deps | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')

# Whether `measure` includes this kind.
measures() { # KIND
    [ "$measure" = all ] || [ "$measure" = "$1" ]
}

# Writes the results that `result` has collected in $work/results.
write_results() { # FILE
    mkdir -p target
    awk 'BEGIN { print "[" } { printf "%s  %s", (NR > 1 ? ",\n" : ""), $0 } END { print "\n]" }' "$work/results" >"$1"
    echo "written to $1"
}

# Starts a server, and leaves its address in `address` and its process in `server`.
start() { # PREFIX PROGRAM ARGUMENT ...
    local prefix=$1
    shift
    rm -f "$work/address"
    mkfifo "$work/address"
    $prefix "$@" >"$work/address" 2>"$work/err" &
    server=$!
    read -r address <"$work/address" || { cat "$work/err" >&2; exit 1; }
}

stop_server() {
    kill "$server"
    wait "$server" 2>/dev/null || true
    server=
}

# Runs one server and the client, which pauses before each step, so that the server sleeps before the next one.
run() { # PREFIX AT_ONCE PAUSE CONNECTIONS PROGRAM ARGUMENT ...
    local prefix=$1 at_once=$2 pause=$3 connections=$4 program=$5
    shift 5
    start "$prefix" "$program" "$connections" "$@"
    "$client" "$address" "$connections" "$at_once" "$pause"
    wait "$server"
    server=
}

calls() { # CONNECTIONS PROGRAM ARGUMENT ...
    run "strace -f -c -S name -U name,calls -o $work/calls" 1 6000 "$@"
    awk 'NF == 2 && $2 ~ /^[0-9]+$/ && $1 != "total" { print $1, $2 }' "$work/calls" | sort
}

# Prints the system calls per connection, by name: the difference between two run lengths.
system_calls() { # SHORT LONG PROGRAM ARGUMENT ...
    local short=$1 long=$2
    shift 2
    calls "$short" "$@" >"$work/calls.short"
    calls "$long" "$@" >"$work/calls.long"
    join -a 2 -e 0 -o 0,1.2,2.2 "$work/calls.short" "$work/calls.long" |
        awk -v n=$((long - short)) '{ each = ($3 - $2) / n; if (each >= 0.005 || each <= -0.005) printf "%s %.2f\n", $1, each }'
}

callgrind="valgrind --tool=callgrind --callgrind-out-file=$work/callgrind"

# Runs a program in callgrind; its output is in $work/out.
in_callgrind() { # OPTION ... PROGRAM ARGUMENT ...
    $callgrind "$@" >"$work/out" 2>"$work/err" || { cat "$work/err" >&2; exit 1; }
}

# The instructions of the last callgrind run, divided by NUMBER.
instructions_each() { # NUMBER
    awk -v n="$1" '/^totals:/ { printf "%.0f\n", $2 / n }' "$work/callgrind"
}

# The instructions of the program itself, and its allocations.
read_profile() { # PROGRAM FILE
    awk -v program="$1" -v root="$PWD" -f .ci/baselines/profile.awk "$2" | sort
}

# Runs a program five times; its output is in $work/out.
five_times() { # PROGRAM ARGUMENT ...
    for _ in 1 2 3 4 5; do "$@"; done >"$work/out"
}

# The median of the five values printed after a name.
median() { # NAME
    awk -v name="$1" '$1 == name { print $2 }' "$work/out" | sort -g | sed -n 3p
}

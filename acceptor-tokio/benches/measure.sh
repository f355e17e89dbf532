#!/usr/bin/env bash
# What the pool costs on the accept path, against the bare accept loop of the same runtime.
#
#   acceptor-tokio/benches/measure.sh [RUNTIME]      RUNTIME: tokio (the default), smol or async-std
#
# MEASURE=calls or MEASURE=instructions measures only these. All tasks of a server run on one thread.
#
# On smol and async-std the calls of `futex` say nothing of the server: there a thread of async-io wakes
# up every 10 ms (one call each), and now and then takes a turn at epoll in place of the server's own
# thread (two calls each, for one waits for the other). Which one does is up to chance.
# Needs strace and valgrind. Prints, for each connection, the system calls (strace -c) and the user
# instructions (valgrind --tool=callgrind), each as the difference of two run lengths, so that start
# and end cancel out. Local connections only; it takes a few minutes and stops by itself.
set -euo pipefail
cd "$(dirname "$0")/../.."
runtime=${1:-tokio}
export LC_ALL=C
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

export ASYNC_STD_THREAD_COUNT=1
# As the release of whoever uses the pool is built, which is what is measured.
export CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS=false
bin=target/release/examples
bare="$bin/${runtime//-/_}_bare"
pool="$bin/${runtime//-/_}_pool"
cargo build --quiet --release -p "acceptor-$runtime" -p acceptor-tokio \
  --example "${bare##*/}" --example "${pool##*/}" --example bench_client
short=100 long=600

# run PREFIX PAUSE CONNECTIONS PROGRAM [ARGUMENT ...]
run() {
  local prefix=$1 pause=$2 connections=$3
  shift 3
  local program=$1
  shift
  rm -f "$work/address"
  mkfifo "$work/address"
  $prefix "$program" "$connections" "$@" >"$work/address" 2>"$work/stderr" &
  local server=$!
  read -r address <"$work/address"
  "$bin/bench_client" "$address" "$connections" "$pause"
  wait "$server"
  rm -f "$work/address"
}

calls() {
  run "strace -f -c -S name -U name,calls -o $work/calls" 6000 "$@"
  awk 'NF == 2 && $2 ~ /^[0-9]+$/ && $1 != "total" { print $1, $2 }' "$work/calls" | sort
}

instructions() {
  run "valgrind --tool=callgrind --callgrind-out-file=$work/callgrind" 4000 "$@"
  awk '/^totals:/ { print $2 }' "$work/callgrind"
}

system_calls() {
  echo "system calls for each connection: $1"
  shift
  calls "$short" "$@" >"$work/short"
  calls "$long" "$@" >"$work/long"
  join -a 2 -e 0 -o 0,1.2,2.2 "$work/short" "$work/long" |
    awk -v n=$((long - short)) '{ each = ($3 - $2) / n; if (each >= 0.005 || each <= -0.005) printf "  %-14s %6.2f\n", $1, each }'
}

user_instructions() {
  local name=$1 few many
  shift
  few=$(instructions "$short" "$@")
  many=$(instructions "$long" "$@")
  awk -v name="$name" -v few="$few" -v many="$many" -v n=$((long - short)) -v bare="${bare_instructions:-0}" 'BEGIN {
    each = (many - few) / n
    printf "%-32s %8.0f", name, each
    if (bare > 0) printf "   %.3f of the bare loop", each / bare
    printf "\n"
  }'
  if [ -z "${bare_instructions:-}" ]; then bare_instructions=$(((many - few) / (long - short))); fi
}

if [ "${MEASURE:-all}" != instructions ]; then
  system_calls "bare loop" "$bare"
  for acceptors in 1 10 1000; do system_calls "pool, $acceptors acceptors" "$pool" "$acceptors"; done
  system_calls "pool, 10 acceptors, bound to a wildcard" "$pool" 10 0.0.0.0:0
fi
if [ "${MEASURE:-all}" != calls ]; then
  echo "user instructions for each connection"
  user_instructions "bare loop" "$bare"
  for acceptors in 1 10 1000; do user_instructions "pool, $acceptors acceptors" "$pool" "$acceptors"; done
fi

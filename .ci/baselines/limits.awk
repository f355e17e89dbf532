# By how much a figure may differ from the recorded one. In memory all is exact: the limit is what a change of other code may move. On smol
# and async-std another thread takes turns at the sockets, and how many is left to chance.
function limit(world, figure, recorded) {
    if (figure ~ /instructions$/) {
        if (world ~ /^core\//) return recorded * 0.002
        return recorded * (world == "tokio" || figure == "pool-instructions" ? 0.01 : 0.03)
    }
    if (world ~ /^core\//) return 0.005
    if (world == "tokio") return 0.05
    if (figure == "system-calls/recvfrom") return 1.5
    return figure ~ /\/(epoll_ctl|epoll_pwait|read|timerfd_settime)$/ ? 0.5 : 0.1
}

# Lines of a profile with less are not recorded: 10 instructions of our code, 100 of another crate, or half a call of the allocator.
function least(world, kind, name) {
    if (kind == "allocations") return 0.5
    return world ~ /^core\// || name ~ /acceptor[-_]/ ? 10 : 100
}

function number(value) {
    return sprintf(value == int(value) ? "%d" : "%.2f", value)
}

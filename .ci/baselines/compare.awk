# Prints what grew and where, and what shrank; the exit code is 1 if anything grew by more than its limit, else 2 if anything shrank so.
#
# The files are the recorded figures and profile, then those that were counted. A line is "WORLD FIGURE NUMBER", of those that were counted
# "WORLD FIGURE LOWEST MIDDLE HIGHEST", and in a profile "WORLD KIND NUMBER NAME". `skip` is a pattern of figures that are not compared.
# Uses limits.awk.

# The world whose profile is recorded, of those that differ little.
function like(world) {
    if (world ~ /^core\/connection-init\//) return "core/connection-init/10"
    return world ~ /^core\// ? "core/connection/10" : world
}

# What is recorded, or as much as is not recorded.
function before(world, kind, name) {
    if ((like(world), kind, name) in recorded_profile) return recorded_profile[like(world), kind, name]
    return least(world, kind, name)
}

# The five lines of a profile that grew most.
function where(world, kind,    key, parts, growth, most, best, shown, done) {
    for (shown = 0; shown < 5; shown++) {
        most = kind == "allocations" ? 0.05 : 2
        best = ""
        for (key in profile) {
            split(key, parts, SUBSEP)
            if (parts[1] != world || parts[2] != kind || (key in done)) continue
            growth = profile[key] - before(world, kind, parts[3])
            if (growth > most) {
                most = growth
                best = key
            }
        }
        if (best == "") return
        done[best] = 1
        split(best, parts, SUBSEP)
        printf "    in %s: %s, recorded %s%s\n", parts[3], number(profile[best]),
            ((like(world), kind, parts[3]) in recorded_profile) ? "" : "less than ", number(before(world, kind, parts[3]))
    }
}

/^#/ || NF == 0 || $1 == "rustc" { next }
FILENAME == ARGV[1] { recorded[$1, $2] = $3; next }
FILENAME == ARGV[3] {
    figures[$1, $2] = $3
    highest[$1, $2] = $5
    worlds[$1] = 1
    order[++count] = $1 SUBSEP $2
    next
}
{
    key = $1 SUBSEP $2
    value = $3
    sub(/^[^ ]+ +[^ ]+ +[^ ]+ +/, "")
    if (FILENAME == ARGV[2]) recorded_profile[key, $0] = value
    else profile[key, $0] = value
}
END {
    # What was recorded and is no longer there has shrunk to nothing.
    for (key in recorded) {
        split(key, parts, SUBSEP)
        if ((parts[1] in worlds) && !(key in figures)) {
            figures[key] = highest[key] = 0
            order[++count] = key
        }
    }
    for (key in figures) {
        split(key, parts, SUBSEP)
        if (parts[2] ~ /instructions$/ && figures[key] - recorded[key] > limit(parts[1], parts[2], recorded[key])) grows[parts[1]] = 1
    }
    for (i = 1; i <= count; i++) {
        key = order[i]
        split(key, parts, SUBSEP)
        world = parts[1]
        figure = parts[2]
        if (skip != "" && figure ~ skip) continue
        growth = figures[key] - recorded[key]
        most = limit(world, figure, recorded[key])
        if (growth > most) {
            grew = 1
            printf "%s: %s for each connection grew from %s to %s, by %s; the limit is %s\n",
                world, figure, number(recorded[key]), number(figures[key]), number(growth), number(most)
            if (figure == "allocations") where(world, "allocations")
            # Once for each world, and where its own profile is recorded, if that grows as well.
            if (figure ~ /instructions$/ && !(world in located) && (world == like(world) || !(like(world) in grows))) {
                located[world] = 1
                where(world, "function")
                where(world, "source")
            }
        } else if (recorded[key] - highest[key] > most) {
            shrank = 1
            printf "%s: %s for each connection shrank from %s to %s\n", world, figure, number(recorded[key]), number(highest[key])
        }
    }
    exit grew ? 1 : shrank ? 2 : 0
}

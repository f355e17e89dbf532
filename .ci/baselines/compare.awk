# Compares what was counted with what is recorded: the files are the recorded figures, the recorded profile, the figures and the profile.
# Prints what grew and where, or what shrank, and ends with exit code 1 if anything grew beyond its limit.
#
# A figure is "WORLD FIGURE NUMBER", a line of a profile "WORLD KIND NUMBER NAME". `skip` is a pattern of figures that are not compared.

# By how much a figure may differ. In memory all is exact: that is what a small change of other code may move. On a runtime another thread
# takes a turn now and then.
function limit(world, figure, recorded) {
    if (figure == "instructions") return world ~ /^core\// ? recorded * 0.002 : recorded * 0.01
    if (figure ~ /^system-calls/) return world == "tokio" ? 0.05 : 0.3
    return world ~ /^core\// ? 0.01 : 0.05
}

function number(value) {
    return sprintf(value == int(value) ? "%d" : "%.2f", value)
}

# The lines of the profile that grew most, of one kind.
function where(world, kind, title, least,    key, parts, growth, most, best, shown, done) {
    for (shown = 0; shown < 5; shown++) {
        most = least
        best = ""
        for (key in profile) {
            split(key, parts, SUBSEP)
            if (parts[1] != world || parts[2] != kind || (key in done)) continue
            growth = profile[key] - recorded_profile[key]
            if (growth > most) {
                most = growth
                best = key
            }
        }
        if (best == "") return
        done[best] = 1
        split(best, parts, SUBSEP)
        printf "    %s %s: %s -> %s\n", title, parts[3], number(recorded_profile[best]), number(profile[best])
    }
}

/^#/ || NF == 0 { next }
FILENAME == ARGV[1] || FILENAME == ARGV[3] {
    if (NF != 3 || $1 == "rustc") next
    if (FILENAME == ARGV[1]) {
        recorded[$1, $2] = $3
    } else {
        figures[$1, $2] = $3
        worlds[$1] = 1
        order[++count] = $1 SUBSEP $2
    }
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
    # What was recorded and is not counted any longer has shrunk to nothing.
    for (key in recorded) {
        split(key, parts, SUBSEP)
        if ((parts[1] in worlds) && !(key in figures)) {
            figures[key] = 0
            order[++count] = key
        }
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
            grew++
            printf "%s: %s grew from %s to %s for each connection (by %s; the limit is %s)\n", world, figure, number(recorded[key]), number(figures[key]), number(growth), number(most)
            if (figure == "instructions") {
                where(world, "function", "in", 2)
                where(world, "source", "of", 2)
            } else if (figure == "allocations") {
                where(world, "allocations", "in", 0.02)
            }
        } else if (-growth > most) {
            shrank++
            printf "%s: %s shrank from %s to %s for each connection\n", world, figure, number(recorded[key]), number(figures[key])
        }
    }
    exit grew > 0 ? 1 : shrank > 0 ? 2 : 0
}

# Prints the lines of a file to record: what was counted, and what is recorded of worlds that were not counted. The files are the recorded
# one and the one that was counted. What has moved by no more than half of its limit keeps its line: a diff shows what has changed.
# `profile` is 1 for a profile, whose lines are left out if they are small. Uses limits.awk.

function line(world, figure, value, name) {
    if (profile) return sprintf("%s %s %s %s", world, figure, number(value), name)
    return sprintf("%-28s %-28s %s", world, figure, number(value))
}

/^#/ || NF == 0 || $1 == "rustc" { next }
{
    world = $1
    figure = $2
    value = $3
    sub(/^[^ ]+ +[^ ]+ +[^ ]+ */, "")
    name = $0
    key = world SUBSEP figure SUBSEP name
}
FILENAME == ARGV[1] {
    recorded[key] = value
    if (!(world in lines)) lines[world] = ""
    lines[world] = lines[world] line(world, figure, value, name) "\n"
    next
}
{
    if (profile && (value < least(world, figure, name) || world ~ /^core\// && world !~ /^core\/connection(-init)?\/10$/)) next
    if (!(world in counted)) {
        counted[world] = 1
        lines[world] = ""
    }
    if (profile) moves = world ~ /^core\// ? 0 : figure == "allocations" ? 0.5 : 2 + value * 0.05
    else moves = world ~ /^core\// ? 0 : limit(world, figure, value) / 2
    if ((key in recorded) && value - recorded[key] <= moves && recorded[key] - value <= moves) value = recorded[key]
    if (profile && figure != "allocations") value = int(value + 0.5)
    lines[world] = lines[world] line(world, figure, value, name) "\n"
}
END { for (world in lines) printf "%s", lines[world] }

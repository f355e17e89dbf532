# Reads a profile of callgrind, and prints by tabs what the program has executed itself:
#
#   total   instructions        NUMBER
#   total   pool-instructions   NUMBER      of the functions of our crates, with what is inlined into them
#   total   allocations         NUMBER
#   function, source or allocations   NAME   NUMBER
#
# `program` is the path of the program, `root` that of the workspace. What the system's libraries execute is left out: it depends on
# their version and on the processor.

function name(kind, text,    id) {
    id = text
    sub(/ .*/, "", id)
    if (text ~ / /) {
        sub(/^[^ ]* /, "", text)
        names[kind, id] = text
    }
    return names[kind, id]
}

# Without what differs from build to build, or says how deep a recursion is.
function function_name(text) {
    sub(/'[0-9]+$/, "", text)
    sub(/::h[0-9a-f]+$/, "", text)
    return text
}

# As it is called in the workspace, in the registry and in the standard library.
function source_name(text) {
    while (text ~ /\/[^\/]+\/\.\.\//) sub(/\/[^\/]+\/\.\.\//, "/", text)
    if (index(text, root "/") == 1) return substr(text, length(root) + 2)
    if (text ~ /\/library\/(alloc|core|std)\//) sub(/^.*\/library\//, "library/", text)
    sub(/^.*\/registry\/src\/[^\/]+\//, "", text)
    return text
}

function allocates(text) {
    return text ~ /^(malloc|calloc|realloc|posix_memalign|aligned_alloc)$/
}

# On the way from what needs memory to what has it.
function passes_on(text) {
    return text ~ /^(__rustc::)?__(rust|rdl|rg)_(re)?alloc/ || text ~ /^<peak_alloc::.*>::(re)?alloc(_zeroed)?$/ || text ~ /^alloc::(raw_vec|alloc)::/ || text ~ /^std::sys::alloc::/
}

/^ob=/ { object = name("object", substr($0, 4)); next }
/^cob=/ { name("object", substr($0, 5)); next }
/^f[lie]=/ { file = name("file", substr($0, 4)); next }
/^cf[li]=/ { name("file", substr($0, 5)); next }
/^fn=/ { caller = function_name(name("function", substr($0, 4))); next }
/^cfn=/ { callee = function_name(name("function", substr($0, 5))); next }
/^calls=/ {
    split(substr($0, 7), number, " ")
    if (allocates(callee) && !allocates(caller)) total_allocations += number[1]
    if ((allocates(callee) || passes_on(callee)) && !passes_on(caller) && !allocates(caller)) allocations[caller] += number[1]
    # The next line is the cost of the call, which is that of the callee.
    getline
    next
}
/^[-+*0-9]/ && object == program {
    instructions += $2
    functions[caller] += $2
    if (caller ~ /(^|[^a-z_])acceptor_/) pool_instructions += $2
    sources[source_name(file)] += $2
}
END {
    OFS = "\t"
    print "total", "instructions", instructions + 0
    print "total", "pool-instructions", pool_instructions + 0
    print "total", "allocations", total_allocations + 0
    for (key in functions) print "function", key, functions[key]
    for (key in sources) print "source", key, sources[key]
    for (key in allocations) print "allocations", key, allocations[key]
}

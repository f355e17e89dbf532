//! Prints BREAKERS.md.

fn main() {
    print!("{}", conformance_wrong::breakers());
}

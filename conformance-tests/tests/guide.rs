//! The code of the guide equals `examples/custom-runtime`, which has its own build and tests.

use std::collections::BTreeSet;

const GUIDE: &str = include_str!("../WRITE-AN-ADAPTER.md");
const MANIFEST: &str = include_str!("../examples/custom-runtime/Cargo.toml");
const ADAPTER: &str = include_str!("../examples/custom-runtime/src/lib.rs");
const POOL: &str = include_str!("../examples/custom-runtime/examples/hello.rs");

#[test]
fn guide_has_the_code_of_the_example() {
    let blocks = GUIDE.split("```rust\n").skip(1);
    let blocks: Vec<_> = blocks.filter_map(|rest| rest.split("```").next()).collect();
    let (pool, adapter) = blocks.split_last().expect("the guide has code blocks");
    assert_eq!(adapter.join("\n"), ADAPTER);
    assert_eq!(*pool, POOL);
}

#[test]
fn commands_add_the_dependencies() {
    let added = GUIDE
        .lines()
        .filter_map(|line| line.strip_prefix("$ cargo add "));
    let added = added.flat_map(|line| line.split(' ').take_while(|word| !word.starts_with("--")));
    let (_, dependencies) = MANIFEST
        .split_once("[dependencies]")
        .expect("the manifest has dependencies");
    let used = dependencies
        .lines()
        .filter_map(|line| line.split_once(" = "));
    let used: BTreeSet<_> = used.map(|(name, _)| name).collect();
    assert_eq!(added.collect::<BTreeSet<_>>(), used);
}

#[test]
fn adapter_is_under_seventy_lines() {
    let code = |line: &&str| !line.trim().is_empty() && !line.trim().starts_with("//");
    let count = ADAPTER.lines().filter(code).count();
    assert!(count < 70, "{count} lines");
}

//! The guide shows what `examples/custom-runtime` holds, which is built and tested by itself.

use std::collections::BTreeSet;

const GUIDE: &str = include_str!("../WRITE-AN-ADAPTER.md");
const MANIFEST: &str = include_str!("../examples/custom-runtime/Cargo.toml");
const ADAPTER: &str = include_str!("../examples/custom-runtime/src/lib.rs");
const POOL: &str = include_str!("../examples/custom-runtime/examples/hello.rs");

#[test]
fn its_code_is_that_of_the_example() {
    let blocks = GUIDE.split("```rust\n").skip(1);
    let blocks: Vec<_> = blocks.filter_map(|rest| rest.split("```").next()).collect();
    let (pool, adapter) = blocks.split_last().expect("it shows code");
    assert_eq!(adapter.join("\n"), ADAPTER);
    assert_eq!(*pool, POOL);
}

#[test]
fn commands_add_the_dependencies() {
    let added = GUIDE
        .lines()
        .filter_map(|line| line.strip_prefix("$ cargo add "));
    let added = added.flat_map(|line| line.split(' ').take_while(|word| !word.starts_with("--")));
    let (_, dependencies) = MANIFEST.split_once("[dependencies]").expect("it has some");
    let used = dependencies
        .lines()
        .filter_map(|line| line.split_once(" = "));
    let used: BTreeSet<_> = used.map(|(name, _)| name).collect();
    assert_eq!(added.collect::<BTreeSet<_>>(), used);
}

#[test]
fn an_adapter_and_its_tests_take_less_than_seventy_lines() {
    let code = |line: &&str| !line.trim().is_empty() && !line.trim().starts_with("//");
    let count = ADAPTER.lines().filter(code).count();
    assert!(count < 70, "{count} lines");
}

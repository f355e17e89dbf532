//! Builds an example of the workspace.

use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// An example's executable, built from the sources as they are: `cargo test --test NAME` alone builds no example.
#[track_caller]
pub(crate) fn example(name: &str) -> PathBuf {
    let profile = if cfg!(debug_assertions) {
        "dev"
    } else {
        "release"
    };
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // The variables that cargo has set for the test describe the test's package. Ring's build script takes them for a change, and this
    // build and the next would compile it again.
    for (variable, _) in env::vars_os() {
        let set_by_cargo = ["CARGO_PKG_", "CARGO_MANIFEST_"];
        let text = variable.to_string_lossy();
        if set_by_cargo.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&variable);
        }
    }
    let built = command
        // With the features of the workspace's tests, so that nothing is compiled twice.
        .args(["build", "--quiet", "--workspace"])
        .args(["--example", name, "--profile", profile])
        .args(["--message-format", "json"])
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo starts");
    let messages = String::from_utf8(built.stdout).expect("the messages of cargo are text");
    assert!(built.status.success(), "{messages}");
    let path = messages.split_once(r#""executable":""#);
    let (_, path) = path.expect("cargo names the executable");
    path.split('"')
        .next()
        .expect("a split has a first part")
        .into()
}

//! The compiler's messages for common mistakes: each must name what to change.
//!
//! Each file in `ui` is a program with one mistake. The lines `//~` at its top are fragments that one error, which points into
//! that file, must contain. They are texts of this workspace and names of types, because the compiler's own messages change with
//! its releases. For the same reason this is not trybuild, which compares whole messages.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use acceptor_tokio::{Acceptor, Connection, TcpListener, acceptor_fn};
use serde_json::Value;

/// A program of the toolchain that runs this test.
fn tool(name: &str) -> Command {
    let program = env::var_os(name.to_uppercase()).unwrap_or_else(|| name.into());
    let mut tool = Command::new(program);
    tool.current_dir(env!("CARGO_MANIFEST_DIR"));
    tool
}

/// The messages of cargo or the compiler, one per line.
fn messages(output: &[u8]) -> impl Iterator<Item = Value> {
    let lines = std::str::from_utf8(output).expect("messages are UTF-8");
    lines
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
}

/// The compiler's arguments for programs that use the crate and tokio.
fn dependencies() -> Vec<String> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent();
    let output = tool("cargo")
        // Everything it needs was built for this test.
        .args([
            "check",
            "--quiet",
            "--lib",
            "--offline",
            "--message-format=json",
        ])
        .arg("--target-dir")
        .arg(target.expect("the folder is inside the target folder"))
        .stderr(Stdio::inherit())
        .output();
    let output = output.expect("cargo runs this test");
    assert!(output.status.success(), "the crate compiles");
    let mut args = Vec::new();
    for artifact in messages(&output.stdout) {
        let files = artifact["filenames"].as_array().into_iter().flatten();
        let mut files = files.filter_map(Value::as_str);
        let Some(file) = files.find(|file| file.ends_with(".rmeta")) else {
            continue;
        };
        let folder = Path::new(file)
            .parent()
            .expect("an artifact is in a folder");
        args.push(format!("-Ldependency={}", folder.display()));
        if let Some(name @ ("acceptor_tokio" | "tokio")) = artifact["target"]["name"].as_str() {
            args.push(format!("--extern={name}={file}"));
        }
    }
    args
}

fn compile(case: &Path, dependencies: &[String]) -> Child {
    tool("rustc")
        .arg(case)
        // Otherwise long types are truncated.
        .args(["--error-format=json", "--verbose", "--cap-lints=allow"])
        .args(["--edition=2024", "--emit=metadata", "--out-dir"])
        .arg(env!("CARGO_TARGET_TMPDIR"))
        .args(dependencies)
        .stderr(Stdio::piped())
        .spawn()
        .expect("the compiler is installed with cargo")
}

/// The text of a message, without the lines that it quotes from the program.
fn words(message: &Value) -> String {
    let list = |key| message[key].as_array().into_iter().flatten();
    let labels = list("spans").map(|span| &span["label"]);
    let own = labels.chain([&message["message"]]);
    let own = own.filter_map(Value::as_str).map(str::to_owned);
    own.chain(list("children").map(words))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Checks the messages for a case; the error says what is wrong.
fn check(case: &Path, output: &Output) -> Result<(), String> {
    let program = fs::read_to_string(case).expect("the case was listed");
    let fragments = program.lines().filter_map(|line| line.strip_prefix("//~ "));
    let fragments: Vec<&str> = fragments.collect();
    assert!(
        !fragments.is_empty(),
        "{} has no line `//~`",
        case.display()
    );
    let is_in_case = |span: &Value| {
        span["is_primary"] == true && span["file_name"].as_str().map(Path::new) == Some(case)
    };
    let errors = messages(&output.stderr)
        .filter(|message| message["level"] == "error")
        .filter(|message| {
            message["spans"]
                .as_array()
                .is_some_and(|spans| spans.iter().any(is_in_case))
        });
    let mut all = String::new();
    for error in errors {
        let words = words(&error);
        if fragments.iter().all(|fragment| words.contains(fragment)) {
            return Ok(());
        }
        all += error["rendered"].as_str().unwrap_or_default();
    }
    Err(format!(
        "{}: no error contains all of {fragments:#?}\n{all}",
        case.display()
    ))
}

#[test]
fn errors_name_the_fix() {
    let dependencies = dependencies();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ui");
    let cases = fs::read_dir(folder).expect("the folder is next to this file");
    let compiling: Vec<_> = cases
        .map(|case| case.expect("the folder can be read").path())
        .map(|case| (compile(&case, &dependencies), case))
        .collect();
    let mut wrong = Vec::new();
    for (compiler, case) in compiling {
        let output = compiler
            .wait_with_output()
            .expect("the compiler was started");
        wrong.extend(check(&case, &output).err());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn acceptor_fn_takes_differing_errors() {
    fn is_acceptor(_: impl Acceptor<TcpListener>) {}
    is_acceptor(acceptor_fn(|connection: Connection| async move {
        connection.stream.set_nodelay(true)?;
        let number: u32 = "7".parse()?;
        char::try_from(number)?;
        Ok(())
    }));
}

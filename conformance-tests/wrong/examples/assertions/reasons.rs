//! Reasons why no case needs a comparison.

use super::source::Assertion;

const CORE: &str = "the compared value comes from the core alone: the suite cannot tamper with it";

const RESET: &str = "the wrong streams cannot reset a connection when they are dropped";

/// The beginning of the function, a part of the comparison's text, and the reason.
const REASONS: &[(&str, &str, &str)] = &[
    ("a1_", "errors took several polls", CORE),
    ("b1_", "calls of `accept`", CORE),
    ("value_of_a_listener", "`accept` is called on", CORE),
    ("v1_", "", CORE),
    ("v2_", "as_expected", CORE),
    ("r3_", "at start", CORE),
    ("one_task_reports", "a task of a child", CORE),
    ("all_goes_on", "", CORE),
    ("held_observer", "rests", CORE),
    ("blocked_observer", "blocks", CORE),
    ("b9_", "", CORE),
    ("l5_", "", CORE),
    ("clients_wait", "calls().0", CORE),
    ("waiting_listeners", "while the pool is full", CORE),
    ("slot_without_a_client", "calls", CORE),
    ("ends", "all.cost().accepted()", CORE),
    ("failed_handshake_frees", "number + 1", CORE),
    ("e2_", "how the client sees it", RESET),
    ("k9_", "how the client sees it", RESET),
];

/// Returns the reason why no case needs this comparison.
pub(crate) fn reason(assertion: &Assertion) -> &'static str {
    let known = REASONS.iter().find(|(function, text, _)| {
        assertion.function.starts_with(function) && assertion.text.contains(text)
    });
    known.map_or(
        "open: none of the flaws that were tried fails here first",
        |known| known.2,
    )
}

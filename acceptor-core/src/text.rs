//! Escaping of text that a peer may have chosen, so that it is safe to log: at most 1 KiB of each
//! value (V5). Also counts.
//!
//! Invariants: no control character, line separator or text direction control is written; an escape
//! is written as a whole or not at all; the value is never collected, and its writes fail once the
//! limit is reached. (A value that ignores these failures and never returns cannot be stopped, like
//! any code that loops.)

use std::fmt::{self, Debug, Display, Write};

/// The largest number of bytes written of one value, including escapes and the mark of a cut.
const LIMIT: usize = 1024;

/// Marks text that was cut.
const CUT: &str = "…";

/// Writes the `Display` of an untrusted value.
///
/// Escapes the backslash as well: `\n` in the output is a line feed, and `\\n` is a backslash and
/// an n. A panic of the value is not caught here.
pub(crate) struct Escaped<'a, T: ?Sized>(pub(crate) &'a T);

/// Writes the `Debug` of an untrusted value, such as an address.
///
/// Leaves the backslash unchanged: `Debug` of strings and paths has already escaped it, and
/// doubling it would make each of those escapes unreadable.
pub(crate) struct EscapedDebug<'a, T: ?Sized>(pub(crate) &'a T);

impl<T: Display + ?Sized> Display for Escaped<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let escapes = |c| c == '\\' || is_unsafe(c);
        // With `{:#}` some errors write their causes as well.
        if f.alternate() {
            write_bounded(f, escapes, format_args!("{:#}", self.0))
        } else {
            write_bounded(f, escapes, format_args!("{}", self.0))
        }
    }
}

impl<T: Debug + ?Sized> Display for EscapedDebug<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_bounded(f, is_unsafe, format_args!("{:?}", self.0))
    }
}

/// Returns whether a terminal, or a reader of a log, may take the character for anything but text
/// of its line.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn write_bounded(
    output: &mut fmt::Formatter<'_>,
    escapes: fn(char) -> bool,
    value: fmt::Arguments<'_>,
) -> fmt::Result {
    let mut bounded = Bounded {
        output,
        escapes,
        length: 0,
        held: String::new(),
        written: Ok(()),
    };
    let whole = bounded.write_fmt(value);
    bounded.finish(whole)
}

/// Passes on text that fits, and refuses the rest.
struct Bounded<'a, 'f> {
    output: &'a mut fmt::Formatter<'f>,
    escapes: fn(char) -> bool,
    /// The length of all text so far, escaped. Above [`LIMIT`] the text is cut.
    length: usize,
    /// The last few bytes within the limit, written only if the mark does not have to replace them.
    held: String,
    /// The output's own result, which the value may have ignored.
    written: fmt::Result,
}

/// The number of bytes that are written at once: up to here the mark still fits.
const UNHELD: usize = LIMIT - CUT.len();

impl Bounded<'_, '_> {
    fn push(&mut self, piece: impl Display, length: usize) -> fmt::Result {
        // A value that ignores every refusal may push without end.
        self.length = self.length.saturating_add(length);
        if self.length > LIMIT {
            return Err(fmt::Error);
        }
        if self.length > UNHELD {
            return write!(self.held, "{piece}");
        }
        self.written = write!(self.output, "{piece}");
        self.written
    }

    /// Ends the text. A value that fails by itself is marked as cut too, because its text is
    /// incomplete.
    fn finish(self, value: fmt::Result) -> fmt::Result {
        self.written?;
        if value.is_ok() && self.length <= LIMIT {
            self.output.write_str(&self.held)
        } else {
            self.output.write_str(CUT)
        }
    }
}

impl Write for Bounded<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.written?;
        let fits = text.len() <= UNHELD.saturating_sub(self.length);
        if fits && !text.contains(self.escapes) {
            return self.push(text, text.len());
        }
        for c in text.chars() {
            if (self.escapes)(c) {
                let escape = c.escape_default();
                self.push(escape.clone(), escape.len())?;
            } else {
                self.push(c, c.len_utf8())?;
            }
        }
        Ok(())
    }
}

/// Writes the counts that are not zero, each before its name, or `none`.
pub(crate) fn write_counts<C: Display + Default + PartialEq>(
    f: &mut fmt::Formatter<'_>,
    counts: impl IntoIterator<Item = (C, impl Display)>,
) -> fmt::Result {
    let mut separator = "";
    for (count, name) in counts {
        if count != C::default() {
            write!(f, "{separator}{count} {name}")?;
            separator = ", ";
        }
    }
    if separator.is_empty() {
        f.write_str("none")?;
    }
    Ok(())
}

/// Writes the tag of a listener, in parentheses, after its number.
pub(crate) struct Tag<'a>(pub(crate) Option<&'a str>);

impl fmt::Display for Tag<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(tag) => write!(f, " ({})", Escaped(tag)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use proptest::prelude::*;
    use proptest::sample;

    use super::*;
    use crate::sync::catch_panic;

    /// A value that is written in pieces by a function, as `Display` and as `Debug`.
    struct By<F>(F);

    impl<F: Fn(&mut fmt::Formatter<'_>) -> fmt::Result> Display for By<F> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0(f)
        }
    }

    impl<F: Fn(&mut fmt::Formatter<'_>) -> fmt::Result> Debug for By<F> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0(f)
        }
    }

    fn written_by<F: Fn(&mut fmt::Formatter<'_>) -> fmt::Result>(write: F) -> By<F> {
        By(write)
    }

    /// Checks the output of a text, as `Display` and as `Debug`.
    #[track_caller]
    fn check(text: &str, expected: &str) {
        check_value(written_by(|f| f.write_str(text)), expected);
    }

    #[track_caller]
    fn check_value(value: impl Display + Debug, expected: &str) {
        assert_eq!(Escaped(&value).to_string(), expected);
        assert_eq!(EscapedDebug(&value).to_string(), expected);
    }

    fn cut(start: &str) -> String {
        format!("{start}…")
    }

    #[test]
    fn plain_text_is_unchanged() {
        check("", "");
        check("connection reset by peer", "connection reset by peer");
        check(r#"it's "quoted" {}"#, r#"it's "quoted" {}"#);
        check("Ä 漢字 👩‍🚀 שלום …", "Ä 漢字 👩‍🚀 שלום …");
    }

    #[test]
    fn control_characters_are_escaped() {
        check("a\nb\r\n\tc", r"a\nb\r\n\tc");
        check("\x1b[2J\x1b]0;title\x07", r"\u{1b}[2J\u{1b}]0;title\u{7}");
        check("\0\x7f\u{85}\u{9b}", r"\u{0}\u{7f}\u{85}\u{9b}");
    }

    #[test]
    fn line_separators_are_escaped() {
        check("a\u{2028}b\u{2029}c", r"a\u{2028}b\u{2029}c");
    }

    #[test]
    fn writing_direction_controls_are_escaped() {
        check(
            "\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}",
            r"\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}",
        );
        check(
            "\u{2066}\u{2067}\u{2068}\u{2069}",
            r"\u{2066}\u{2067}\u{2068}\u{2069}",
        );
    }

    #[test]
    fn only_debug_escapes_the_backslash() {
        assert_eq!(Escaped(r"a\nb").to_string(), r"a\\nb");
        assert_eq!(EscapedDebug("a\nb\\c").to_string(), r#""a\nb\\c""#);
    }

    #[test]
    fn longest_text_is_unchanged() {
        check(&"x".repeat(LIMIT), &"x".repeat(LIMIT));
        check(&"€".repeat(LIMIT / 3), &"€".repeat(LIMIT / 3));
        let escape = format!("{}\u{1b}", "x".repeat(LIMIT - 6));
        check(&escape, &format!(r"{}\u{{1b}}", "x".repeat(LIMIT - 6)));
    }

    #[test]
    fn longer_text_is_cut_and_marked() {
        check(&"x".repeat(LIMIT + 1), &cut(&"x".repeat(LIMIT - 3)));
        check(&"x".repeat(1_000_000), &cut(&"x".repeat(LIMIT - 3)));
    }

    #[test]
    fn cut_splits_no_character_or_escape() {
        check(&"é".repeat(LIMIT), &cut(&"é".repeat(510)));
        check(&"😀".repeat(LIMIT), &cut(&"😀".repeat(255)));
        check(&"\u{2028}".repeat(LIMIT), &cut(&r"\u{2028}".repeat(127)));
        let late = format!("{}\u{1b}", "x".repeat(LIMIT - 4));
        check(&late, &cut(&"x".repeat(LIMIT - 4)));
    }

    #[test]
    fn escapes_count_towards_the_limit() {
        check(&"\n".repeat(LIMIT), &cut(&r"\n".repeat(510)));
    }

    #[test]
    fn endless_value_is_cut_and_marked() {
        let endless = written_by(|f| {
            loop {
                f.write_str("xx")?;
            }
        });
        check_value(endless, &cut(&"x".repeat(LIMIT - 3)));
    }

    #[test]
    fn value_ignoring_errors_is_cut() {
        let stubborn = written_by(|f| {
            for _ in 0..LIMIT {
                let _ = f.write_str("\u{2028}");
                let _ = f.write_str("x");
            }
            Ok(())
        });
        check_value(stubborn, &cut(&r"\u{2028}x".repeat(113)));
    }

    #[test]
    fn failing_value_is_marked() {
        let gives_up = written_by(|f| {
            f.write_str("half a")?;
            Err(fmt::Error)
        });
        check_value(gives_up, "half a…");
    }

    #[test]
    fn value_panic_propagates() {
        let panicking = written_by(|_| panic!("in Display"));
        let written = catch_panic(|| Escaped(&panicking).to_string());
        assert_eq!(written, Err("in Display".to_owned()));
    }

    #[test]
    fn alternate_form_is_passed_on() {
        let error = written_by(|f| f.write_str(if f.alternate() { "all\ncauses" } else { "one" }));
        assert_eq!(format!("{}", Escaped(&error)), "one");
        assert_eq!(format!("{:#}", Escaped(&error)), r"all\ncauses");
    }

    /// Accepts the first few pieces, then fails; counts the pieces that are not empty.
    struct Full {
        takes: usize,
        pieces: usize,
    }

    impl Write for Full {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.pieces += usize::from(!text.is_empty());
            if self.pieces > self.takes {
                return Err(fmt::Error);
            }
            Ok(())
        }
    }

    #[test]
    fn plain_text_is_one_write() {
        let mut output = Full {
            takes: 1,
            pieces: 0,
        };
        assert_eq!(write!(output, "{}", Escaped("plain text")), Ok(()));
        assert_eq!(output.pieces, 1);
    }

    #[test]
    fn output_error_ends_the_writing() {
        let stubborn = written_by(|f| {
            for _ in 0..10 {
                let _ = f.write_str("x");
            }
            Ok(())
        });
        let mut output = Full {
            takes: 2,
            pieces: 0,
        };
        assert!(write!(output, "{}", Escaped(&stubborn)).is_err());
        assert_eq!(output.pieces, 3);
    }

    /// Escapes each character on its own, then cuts.
    fn model(text: &str, also: &[char]) -> String {
        let escape = |c: char| {
            let escaped = c.is_control() || HOSTILE.contains(&c) || also.contains(&c);
            if escaped {
                c.escape_default().to_string()
            } else {
                c.to_string()
            }
        };
        let whole: String = text.chars().map(escape).collect();
        if whole.len() <= LIMIT {
            return whole;
        }
        let mut start = String::new();
        for piece in text.chars().map(escape) {
            if start.len() + piece.len() > LIMIT - CUT.len() {
                break;
            }
            start += &piece;
        }
        cut(&start)
    }

    const HOSTILE: [char; 11] = [
        '\u{2028}', '\u{2029}', '\u{202a}', '\u{202b}', '\u{202c}', '\u{202d}', '\u{202e}',
        '\u{2066}', '\u{2067}', '\u{2068}', '\u{2069}',
    ];

    fn pieces() -> impl Strategy<Value = Vec<String>> {
        let c = prop_oneof![
            any::<char>(),
            sample::select(HOSTILE.as_slice()),
            sample::select(['\n', '\x1b', '\\', '"', 'x', 'é', '€'].as_slice()),
        ];
        let piece = proptest::collection::vec(c, 0..400);
        let piece = piece.prop_map(|all| all.into_iter().collect::<String>());
        let filler = (0..1_100_usize).prop_map(|length| "x".repeat(length));
        proptest::collection::vec(prop_oneof![piece, filler], 0..4)
    }

    proptest! {
        #[test]
        fn any_text_is_bounded_and_safe(pieces in pieces()) {
            let text = pieces.concat();
            let value = written_by(|f| {
                pieces.iter().try_for_each(|piece| f.write_str(piece))
            });
            for (written, also) in [
                (Escaped(&value).to_string(), ['\\'].as_slice()),
                (EscapedDebug(&value).to_string(), &[]),
            ] {
                prop_assert!(written.len() <= 1024, "{}", written.len());
                prop_assert!(!written.contains(|c: char| c.is_control() || HOSTILE.contains(&c)));
                prop_assert_eq!(written, model(&text, also));
            }
        }
    }
}

//! The rule book: the rules by section, as printed to a terminal, to RULES.md and to the core's documentation.

use std::io::{self, Write};

use conformance_tests::rules::Rule;

/// A section of the rule book: the rules whose ids begin with its letter.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) letter: &'static str,
    pub(super) title: &'static str,
    /// The terms and conditions that its rules rely on.
    preface: &'static str,
}

const fn plain(letter: &'static str, title: &'static str) -> Section {
    Section {
        letter,
        title,
        preface: "",
    }
}

pub(super) const SECTIONS: [Section; 15] = [
    plain("B", "callbacks of the acceptor"),
    Section {
        letter: "E",
        title: "how children end",
        preface: include_str!("rule_book/ends.md"),
    },
    plain("I", "restart intensity"),
    plain("L", "listeners"),
    Section {
        letter: "C",
        title: "capacity",
        preface: "A connection holds a *slot* of each limit that applies to it: the pool's, and its listener's own.\n",
    },
    plain("N", "latches of a connection"),
    Section {
        letter: "S",
        title: "stopping",
        preface: "Order: lame duck (optional) → listeners closed → grace → stop → kill.\n",
    },
    plain("Q", "introspection"),
    plain("R", "reconfiguration"),
    plain("A", "accept errors"),
    plain("V", "invalid input"),
    plain("O", "reports"),
    Section {
        letter: "H",
        title: "handshakes",
        preface: "A *handshake* prepares an accepted stream before `serve` gets it: TLS, a PROXY header, or both.\n",
    },
    Section {
        letter: "T",
        title: "the runtime alone",
        preface: "Checked without a pool: a failure is the fault of the runtime or its adapter.\n",
    },
    Section {
        letter: "K",
        title: "the listener and its streams alone",
        preface: "Checked without a pool: a failure is the fault of the listener, the stream or the adapter.\n",
    },
];

/// Returns the section of a rule.
pub(super) fn section(rule: &Rule) -> Option<&'static Section> {
    let letter = rule.id.trim_end_matches(|c: char| c.is_ascii_digit());
    SECTIONS.iter().find(|section| section.letter == letter)
}

fn sections(rules: &[Rule]) -> impl Iterator<Item = (&'static Section, Vec<&Rule>)> {
    SECTIONS.iter().filter_map(|here| {
        let inside: Vec<_> = rules
            .iter()
            .filter(|rule| section(rule) == Some(here))
            .collect();
        (!inside.is_empty()).then_some((here, inside))
    })
}

pub(super) fn write_text(out: &mut dyn Write, rules: &[Rule]) -> io::Result<()> {
    for (number, (section, rules)) in sections(rules).enumerate() {
        let between = if number == 0 { "" } else { "\n" };
        let Section { letter, title, .. } = section;
        writeln!(out, "{between}{letter}: {title}")?;
        for rule in rules {
            writeln!(out, "{:4} {:6}  {}", rule.id, rule.level, rule.sentence)?;
        }
    }
    Ok(())
}

pub(super) fn write_markdown(out: &mut dyn Write, rules: &[Rule]) -> io::Result<()> {
    write!(out, "{}", include_str!("rule_book/begin.md"))?;
    for (section, rules) in sections(rules) {
        let Section {
            letter,
            title,
            preface,
        } = section;
        writeln!(out, "\n## {letter}: {title}\n")?;
        if !preface.is_empty() {
            writeln!(out, "{preface}")?;
        }
        for rule in rules {
            // The documentation links to each rule by its id.
            let (id, anchor) = (rule.id, rule.id.to_lowercase());
            let Rule {
                level, sentence, ..
            } = rule;
            writeln!(
                out,
                "- <a id=\"{anchor}\"></a>**{id}** ({level}) {sentence}"
            )?;
        }
    }
    write!(out, "\n{}", include_str!("rule_book/end.md"))
}

//! How far a long run has come: a bar where there is a terminal, a line now and then where there is none.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// How a long run tells how far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Progress {
    /// A line every ten seconds, to where progress is told.
    #[default]
    Lines,
    /// A bar on standard error.
    Bar,
}

impl Progress {
    /// A bar, if standard error is a terminal.
    pub fn of_standard_error() -> Self {
        if io::stderr().is_terminal() {
            Progress::Bar
        } else {
            Progress::Lines
        }
    }
}

/// The time between two lines.
const PAUSE: Duration = Duration::from_secs(10);

const TEMPLATE: &str = "{wide_bar} {human_pos} of {human_len} seeds, {speed} a second, {eta} left";

/// Tells how many seeds of all were played.
pub(super) struct Teller<'a> {
    out: &'a mut dyn Write,
    bar: ProgressBar,
    style: Progress,
    all: u64,
    began: Instant,
    told: Instant,
}

impl<'a> Teller<'a> {
    pub(super) fn new(out: &'a mut dyn Write, style: Progress, all: u64) -> Self {
        let target = match style {
            Progress::Lines => ProgressDrawTarget::hidden(),
            Progress::Bar => ProgressDrawTarget::stderr(),
        };
        let template = ProgressStyle::with_template(TEMPLATE).expect("the template is a good one");
        let template = template.with_key(
            "speed",
            |state: &ProgressState, out: &mut dyn fmt::Write| {
                let _ = write!(out, "{:.0}", state.per_sec());
            },
        );
        let now = Instant::now();
        Self {
            out,
            bar: ProgressBar::with_draw_target(Some(all), target).with_style(template),
            style,
            all,
            began: now,
            told: now,
        }
    }

    pub(super) fn tell(&mut self, done: u64, now: Instant) -> io::Result<()> {
        self.bar.set_position(done);
        if self.style == Progress::Bar || now.duration_since(self.told) < PAUSE || done == 0 {
            return Ok(());
        }
        self.told = now;
        let seconds = now.duration_since(self.began).as_secs_f64();
        let left = seconds * (self.all - done) as f64 / done as f64;
        let each = done as f64 / seconds;
        writeln!(
            self.out,
            "{done} of {} seeds, {each:.0} a second, {left:.0} s left",
            self.all
        )
    }
}

impl Drop for Teller<'_> {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_there_is_no_terminal_a_line_tells_it_every_ten_seconds() {
        let mut out = Vec::new();
        let mut teller = Teller::new(&mut out, Progress::Lines, 1_000);
        let began = teller.began;
        for second in 0..=25 {
            let now = began + Duration::from_secs(second);
            teller.tell(second * 20, now).expect("it can be written");
        }
        drop(teller);
        let told = String::from_utf8(out).expect("it is text");
        assert_eq!(
            told,
            "200 of 1000 seeds, 20 a second, 40 s left\n\
             400 of 1000 seeds, 20 a second, 30 s left\n"
        );
    }
}

//! A scenario as a picture: who lived from when to when on the virtual time line, before the phases of the stop.
//!
//! The same moments are always the same picture, to the letter. It brings its
//! own background, and needs neither scripts nor fonts of its own.

mod canvas;
mod life;

use std::collections::BTreeSet;
use std::time::Duration;

use acceptor_core::{Phase, PoolState};

use self::canvas::Canvas;
use self::life::{ChildLife, End, ListenerLife, PoolLife, Span, Story};
use super::Moment;

const WIDTH: f64 = 1000.0;
const MARGIN: f64 = 20.0;
/// Where the time line begins, and where it ends: to the left are names, to the right room for what is said at an end.
const LEFT: f64 = 232.0;
const RIGHT: f64 = 886.0;
const ROW: f64 = 22.0;
const STRIP: f64 = 22.0;
/// The width of a letter of the small font, more or less.
const LETTER: f64 = 6.1;

const STYLE: &str = "\
text { font: 12px sans-serif; fill: #2b3440 }
.head { font-weight: bold }
.mute { font-size: 11px; fill: #6b7683 }
.paper { fill: #ffffff; stroke: #d5dae0 }
.grid { stroke: #8896a5; stroke-opacity: 0.22 }
.axis { stroke: #8896a5 }
.running { fill: #f1f5f9 } .strip.running { fill: #d9e3ec }
.duck { fill: #fdf6e0 } .strip.duck { fill: #f6e2a4 }
.grace { fill: #ecf5ea } .strip.grace { fill: #c8e2c2 }
.stop { fill: #fceee2 } .strip.stop { fill: #f5cfae }
.kill { fill: #fae6e5 } .strip.kill { fill: #e99b96 }
.edge { stroke: #c4524b; stroke-width: 1.5 }
.open { fill: #5c6b7a }
.paused { fill: #ffffff; stroke: #5c6b7a; stroke-dasharray: 3 2 }
.client { fill: #ffffff }
.failed { fill: #e0a030 }
.init { fill: #b8a5d8 }
.waiting { fill: #a9b5c1 }
.terminate { fill: #8d76ba }
.serving { fill: #6ba4d8 }
.trapped { fill: #2f6aa3 }
.good { fill: #3d8b5f }
.dropped { fill: #6b7683 }
.bad { fill: none; stroke: #b93a32; stroke-width: 2.2; stroke-linecap: round }
.line { fill: none; stroke: #6b7683; stroke-width: 1.5 }
";

/// What a picture shows, and therefore explains, unless it is named where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Sign {
    LameDuck,
    Grace,
    Stop,
    Open,
    Client,
    Paused,
    AcceptFailed,
    Init,
    Waiting,
    Terminate,
    Serving,
    Trapped,
    Good,
    Dropped,
    Bad,
    Acceptor,
}

impl Sign {
    fn words(self) -> &'static str {
        match self {
            Sign::LameDuck => "lame duck",
            Sign::Grace => "grace",
            Sign::Stop => "stop",
            Sign::Open => "listener, open",
            Sign::Client => "a client connects",
            Sign::Paused => "pauses",
            Sign::AcceptFailed => "accept fails",
            Sign::Init => "init",
            Sign::Waiting => "acceptor, waiting",
            Sign::Terminate => "terminate",
            Sign::Serving => "connection, serving",
            Sign::Trapped => "has trapped the stop",
            Sign::Good => "returned",
            Sign::Dropped => "dropped",
            Sign::Bad => "killed or failed",
            Sign::Acceptor => "an acceptor's end",
        }
    }

    fn of_end(end: &End) -> Self {
        match end {
            End::Returned | End::LeftCleanly => Sign::Good,
            End::Dropped => Sign::Dropped,
            End::Failed(_) => Sign::Bad,
            End::Acceptor(_) => Sign::Acceptor,
        }
    }
}

/// What these moments show, as SVG.
pub fn picture(moments: &[Moment]) -> String {
    let story = Story::of(moments);
    let mut painter = Painter {
        canvas: Canvas::default(),
        axis: Axis::of(Duration::ZERO, Duration::ZERO),
        shown: BTreeSet::new(),
        y: MARGIN,
    };
    for pool in &story.pools {
        painter.pool(pool);
    }
    painter.legend();
    painter
        .canvas
        .finish(WIDTH, painter.y + MARGIN - 4.0, STYLE, &summary(&story))
}

fn summary(story: &Story) -> String {
    let listeners = story.pools.iter().flat_map(|pool| &pool.listeners);
    let children = listeners.clone().flat_map(|listener| &listener.children);
    let connections = children.filter(|child| child.serves.is_some()).count();
    format!(
        "The lives of {} listeners and {connections} connections, before the phases of the stop",
        listeners.count()
    )
}

/// Times as places: each pool has its own.
struct Axis {
    from: f64,
    length: f64,
    /// The time between two ticks.
    step: f64,
}

impl Axis {
    fn of(from: Duration, to: Duration) -> Self {
        let (from, to) = (milliseconds(from), milliseconds(to));
        let length = (to - from).max(1.0);
        // 1, 2 or 5, whatever the power of ten, so that there are about ten of them.
        let rough = length / 14.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0].map(|factor| factor * power);
        let step = step.into_iter().find(|step| *step >= rough);
        Self {
            from,
            length: length * 1.015,
            step: step.unwrap_or(10.0 * power),
        }
    }

    fn place(&self, time: Duration) -> f64 {
        self.place_of(milliseconds(time))
    }

    fn place_of(&self, milliseconds: f64) -> f64 {
        let part = (milliseconds - self.from) / self.length;
        LEFT + (RIGHT - LEFT) * part.clamp(0.0, 1.0)
    }

    /// The times of the ticks, and their places.
    fn ticks(&self) -> impl Iterator<Item = (f64, f64)> {
        let first = (self.from / self.step).ceil() as u64;
        let last = ((self.from + self.length) / self.step).floor() as u64;
        (first..=last).map(|number| {
            let time = number as f64 * self.step;
            (time, self.place_of(time))
        })
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

struct Painter {
    canvas: Canvas,
    axis: Axis,
    shown: BTreeSet<Sign>,
    /// How far down the picture is done.
    y: f64,
}

impl Painter {
    fn pool(&mut self, pool: &PoolLife) {
        self.axis = Axis::of(pool.from, pool.to);
        self.canvas.text(MARGIN, self.y + 12.0, "head", &pool.name);
        let spec = pool.spec.to_string();
        self.canvas
            .text(MARGIN + 60.0, self.y + 12.0, "mute", &spec);
        self.y += 24.0;
        let top = self.y;
        let children = |listener: &ListenerLife| listener.children.len() as f64 * ROW;
        let rows: f64 = pool
            .listeners
            .iter()
            .map(|listener| ROW + 8.0 + children(listener))
            .sum();
        self.bands(pool, top, STRIP + rows + 8.0);
        self.y = top + STRIP;
        for listener in &pool.listeners {
            self.y += 8.0;
            self.listener(listener);
            for child in &listener.children {
                self.child(child);
            }
        }
        self.y += 8.0;
        self.ticks();
    }

    /// The phases, behind all that follows, and their names above.
    fn bands(&mut self, pool: &PoolLife, top: f64, height: f64) {
        let places = pool.phases.iter().map(|(state, span)| {
            let from = self.axis.place(span.from);
            let to = span.to.map_or(RIGHT, |to| self.axis.place(to));
            (class(*state), words(*state), from, to)
        });
        let places: Vec<_> = places.collect();
        for (class, _, from, to) in &places {
            self.canvas
                .rect((*from, top), (to - from, height), 0.0, class);
            let strip = format!("strip {class}");
            self.canvas
                .rect((*from, top), (to - from, STRIP), 0.0, &strip);
        }
        for (_, x) in self.axis.ticks() {
            self.canvas
                .line((x, top + STRIP), (x, top + height + 4.0), "grid");
        }
        for (number, (class, words, from, to)) in places.iter().enumerate() {
            // A kill is mostly over at once: then it is a line, and its name stands beside it.
            if *class == "kill" {
                self.canvas
                    .line((*from, top), (*from, top + height), "edge");
            }
            let width = words.len() as f64 * LETTER + 8.0;
            if to - from >= width {
                self.canvas
                    .centred((from + to) / 2.0, top + 15.0, "", words);
            } else if number + 1 == places.len() {
                self.canvas.text(to + 6.0, top + 15.0, "", words);
            } else {
                self.shown.extend(match *class {
                    "duck" => Some(Sign::LameDuck),
                    "grace" => Some(Sign::Grace),
                    "stop" => Some(Sign::Stop),
                    _ => None,
                });
            }
        }
    }

    fn listener(&mut self, listener: &ListenerLife) {
        let middle = self.y + ROW / 2.0;
        self.name(
            MARGIN,
            "head",
            &format!("listener {}", listener.id),
            &listener.address.to_string(),
        );
        self.bar(&listener.open, 8.0, "open", Sign::Open);
        for pause in &listener.pauses {
            self.bar(pause, 6.0, "paused", Sign::Paused);
        }
        for (times, sign, class) in [
            (&listener.clients, Sign::Client, "client"),
            (&listener.failures, Sign::AcceptFailed, "failed"),
        ] {
            for time in times {
                self.shown.insert(sign);
                let x = self.axis.place(*time);
                self.canvas.circle((x, middle), 2.3, class);
            }
        }
        if let (Some(to), Some(how)) = (listener.open.to, &listener.how) {
            let x = self.axis.place(to) + 6.0;
            self.canvas.text(x, middle + 4.0, "mute", how);
        }
        self.y += ROW;
    }

    fn child(&mut self, child: &ChildLife) {
        let middle = self.y + ROW / 2.0;
        let (kind, peer) = match &child.peer {
            Some(peer) => ("connection", peer.to_string()),
            None => ("acceptor", String::new()),
        };
        self.name(MARGIN + 12.0, "", &format!("{kind} {}", child.id), &peer);
        if let Some(init) = &child.init {
            self.bar(init, 6.0, "init", Sign::Init);
        }
        if let Some(waits) = &child.waits {
            self.bar(waits, 4.0, "waiting", Sign::Waiting);
        }
        if let Some(terminates) = &child.terminates {
            self.bar(terminates, 6.0, "terminate", Sign::Terminate);
        }
        if let Some(serves) = &child.serves {
            self.bar(serves, 12.0, "serving", Sign::Serving);
        }
        if let Some(trapped) = &child.trapped {
            self.bar(trapped, 12.0, "trapped", Sign::Trapped);
        }
        if let Some((at, end)) = &child.end {
            let sign = Sign::of_end(end);
            self.shown.insert(sign);
            let x = self.axis.place(*at);
            self.sign(sign, x, middle);
            self.canvas
                .text(x + 10.0, middle + 4.0, "mute", end.words());
        }
        self.y += ROW;
    }

    fn name(&mut self, x: f64, class: &str, name: &str, address: &str) {
        let baseline = self.y + ROW / 2.0 + 4.0;
        self.canvas.text(x, baseline, class, name);
        self.canvas.text(MARGIN + 110.0, baseline, "mute", address);
    }

    /// A time from which nothing is to be seen has no bar, and nothing to explain.
    fn bar(&mut self, span: &Span, height: f64, class: &str, sign: Sign) {
        let from = self.axis.place(span.from);
        let to = span.to.map_or(RIGHT, |to| self.axis.place(to));
        let middle = self.y + ROW / 2.0;
        if to - from > 0.05 {
            self.shown.insert(sign);
            let round = if height > 8.0 { 2.5 } else { 1.5 };
            self.canvas.rect(
                (from, middle - height / 2.0),
                (to - from, height),
                round,
                class,
            );
        }
    }

    fn sign(&mut self, sign: Sign, x: f64, y: f64) {
        let canvas = &mut self.canvas;
        match sign {
            Sign::Good => canvas.circle((x, y), 4.5, "good"),
            Sign::Dropped => canvas.rect((x - 4.0, y - 4.0), (8.0, 8.0), 0.0, "dropped"),
            Sign::Bad => {
                canvas.line((x - 4.0, y - 4.0), (x + 4.0, y + 4.0), "bad");
                canvas.line((x - 4.0, y + 4.0), (x + 4.0, y - 4.0), "bad");
            }
            Sign::Acceptor => canvas.line((x, y - 5.0), (x, y + 5.0), "line"),
            Sign::Client => {
                canvas.rect((x - 9.0, y - 4.0), (18.0, 8.0), 1.5, "open");
                canvas.circle((x, y), 2.3, "client");
            }
            Sign::AcceptFailed => {
                canvas.rect((x - 9.0, y - 4.0), (18.0, 8.0), 1.5, "open");
                canvas.circle((x, y), 2.3, "failed");
            }
            Sign::LameDuck => canvas.rect((x - 9.0, y - 6.0), (18.0, 12.0), 0.0, "strip duck"),
            Sign::Grace => canvas.rect((x - 9.0, y - 6.0), (18.0, 12.0), 0.0, "strip grace"),
            Sign::Stop => canvas.rect((x - 9.0, y - 6.0), (18.0, 12.0), 0.0, "strip stop"),
            Sign::Open => canvas.rect((x - 9.0, y - 4.0), (18.0, 8.0), 1.5, "open"),
            Sign::Paused => canvas.rect((x - 9.0, y - 3.0), (18.0, 6.0), 1.5, "paused"),
            Sign::Init => canvas.rect((x - 9.0, y - 3.0), (18.0, 6.0), 1.5, "init"),
            Sign::Waiting => canvas.rect((x - 9.0, y - 2.0), (18.0, 4.0), 1.5, "waiting"),
            Sign::Terminate => canvas.rect((x - 9.0, y - 3.0), (18.0, 6.0), 1.5, "terminate"),
            Sign::Serving => canvas.rect((x - 9.0, y - 6.0), (18.0, 12.0), 2.5, "serving"),
            Sign::Trapped => canvas.rect((x - 9.0, y - 6.0), (18.0, 12.0), 2.5, "trapped"),
        }
    }

    fn ticks(&mut self) {
        let y = self.y + 4.0;
        self.canvas.line((LEFT, y), (RIGHT, y), "axis");
        for (time, x) in self.axis.ticks() {
            self.canvas.line((x, y), (x, y + 4.0), "axis");
            let label = canvas::number(time);
            self.canvas.centred(x, y + 16.0, "mute", &label);
        }
        self.canvas.text(RIGHT + 10.0, y + 16.0, "mute", "ms");
        self.y = y + 38.0;
    }

    /// What the signs mean that are there, in columns.
    fn legend(&mut self) {
        const COLUMNS: usize = 6;
        let width = (WIDTH - 2.0 * MARGIN) / COLUMNS as f64;
        let shown = std::mem::take(&mut self.shown);
        for (number, sign) in shown.into_iter().enumerate() {
            if number > 0 && number % COLUMNS == 0 {
                self.y += 20.0;
            }
            let x = MARGIN + (number % COLUMNS) as f64 * width;
            self.sign(sign, x + 9.0, self.y);
            self.canvas
                .text(x + 24.0, self.y + 4.0, "mute", sign.words());
        }
        self.y += 10.0;
    }
}

fn class(state: PoolState) -> &'static str {
    match state {
        PoolState::Stopping(Phase::LameDuck) => "duck",
        PoolState::Stopping(Phase::Grace) => "grace",
        PoolState::Stopping(Phase::Stop) => "stop",
        PoolState::Stopping(Phase::Kill) => "kill",
        _ => "running",
    }
}

fn words(state: PoolState) -> &'static str {
    match state {
        PoolState::Stopping(Phase::LameDuck) => "lame duck",
        PoolState::Stopping(Phase::Grace) => "grace",
        PoolState::Stopping(Phase::Stop) => "stop",
        PoolState::Stopping(Phase::Kill) => "kill",
        _ => "running",
    }
}

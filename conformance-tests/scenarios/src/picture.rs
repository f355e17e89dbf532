//! Draws a trace as SVG: listeners and children are bars on the virtual time line, in front of the phases of the stop.
//!
//! The same trace always gives the same picture. The picture has its own background, and needs no scripts and no fonts.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use acceptor_core::{ChildId, Event as Report, Failure, ListenerId, Phase, PoolState};

use super::{Event, InitOutcome, ServeOutcome, SpecSetting, TraceEntry};
use acceptor_simulation::NetworkEvent;

const WIDTH: f64 = 1000.0;
const MARGIN: f64 = 20.0;
/// The start and the end of the time line, which has names on its left and the kinds of ends on its right.
const LEFT: f64 = 232.0;
const RIGHT: f64 = 886.0;
const ROW: f64 = 22.0;
/// The width of a letter, roughly.
const LETTER: f64 = 6.1;
const LEGEND_COLUMNS: usize = 6;

const STYLE: &str = "\
text { font: 12px sans-serif; fill: #2b3440 }
.head { font-weight: bold }
.mute { font-size: 11px; fill: #6b7683 }
.centre { text-anchor: middle }
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

/// A sign of the picture, in the order of the legend.
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

#[derive(Debug, Clone, Copy)]
enum Shape {
    /// A bar of this height.
    Bar(f64),
    /// A dot on the bar of a listener.
    Dot,
    Disc,
    Square,
    Cross,
    Tick,
}

/// The class, the shape and the legend of each sign.
const SIGNS: [(&str, Shape, &str); 16] = [
    ("strip duck", Shape::Bar(12.0), "lame duck"),
    ("strip grace", Shape::Bar(12.0), "grace"),
    ("strip stop", Shape::Bar(12.0), "stop"),
    ("open", Shape::Bar(8.0), "listener, open"),
    ("client", Shape::Dot, "a client connects"),
    ("paused", Shape::Bar(6.0), "pauses"),
    ("failed", Shape::Dot, "accept fails"),
    ("init", Shape::Bar(6.0), "init"),
    ("waiting", Shape::Bar(4.0), "acceptor, waiting"),
    ("terminate", Shape::Bar(6.0), "terminate"),
    ("serving", Shape::Bar(12.0), "connection, serving"),
    ("trapped", Shape::Bar(12.0), "has trapped the stop"),
    ("good", Shape::Disc, "returned"),
    ("dropped", Shape::Square, "dropped"),
    ("bad", Shape::Cross, "killed or failed"),
    ("line", Shape::Tick, "end of an acceptor"),
];

/// The class and the name of a state of the pool, and its sign in the legend.
fn phase(state: PoolState) -> (&'static str, &'static str, Option<Sign>) {
    match state {
        PoolState::Stopping(Phase::LameDuck) => ("duck", "lame duck", Some(Sign::LameDuck)),
        PoolState::Stopping(Phase::Grace) => ("grace", "grace", Some(Sign::Grace)),
        PoolState::Stopping(Phase::Stop) => ("stop", "stop", Some(Sign::Stop)),
        PoolState::Stopping(Phase::Kill) => ("kill", "kill", None),
        _ => ("running", "running", None),
    }
}

/// Returns what the trace shows, as SVG.
pub fn picture(trace: &[TraceEntry]) -> String {
    let mut timeline = Timeline::default();
    for entry in trace {
        timeline.add(entry.at, &entry.event);
    }
    timeline.end_stuck_children();
    timeline
        .rows
        .sort_by_key(|row| (row.pool, row.listener, row.child));
    Painter::default().paint(&timeline)
}

/// The pools of a trace, and a row for each listener and each child.
#[derive(Default)]
struct Timeline {
    pools: Vec<Pool>,
    rows: Vec<Row>,
}

struct Pool {
    name: String,
    spec: SpecSetting,
    from: Duration,
    to: Duration,
    phases: Vec<(PoolState, Duration, Option<Duration>)>,
}

/// A listener, or one of its children.
struct Row {
    pool: usize,
    listener: ListenerId,
    child: Option<ChildId>,
    address: Option<SocketAddr>,
    /// The signs, with their start and their end.
    bars: Vec<(Sign, Duration, Option<Duration>)>,
    returned: Option<ServeOutcome>,
    end: Option<(Duration, Option<Sign>, &'static str)>,
}

impl Row {
    fn begin(&mut self, sign: Sign, at: Duration) {
        self.bars.push((sign, at, None));
    }

    /// Ends all bars; a bar cannot end later.
    fn end_bars(&mut self, at: Duration) {
        for (.., to) in &mut self.bars {
            *to = Some(to.map_or(at, |to| to.min(at)));
        }
    }

    /// Ends the row, unless it has ended.
    fn finish(&mut self, at: Duration, sign: Sign, how: &'static str) {
        self.end_bars(at);
        self.end.get_or_insert((at, Some(sign), how));
    }

    fn replace_end(&mut self, sign: Option<Sign>, how: &'static str) {
        self.end = self.end.map(|(at, ..)| (at, sign, how));
    }
}

impl Timeline {
    fn add(&mut self, at: Duration, event: &Event) {
        match event {
            // These do not concern a pool.
            Event::Step(..) | Event::Teardown | Event::CloseReturned(_) | Event::Joined(_) => {
                return;
            }
            Event::Started(number, spec) => self.pools.push(Pool {
                name: format!("pool {number}"),
                spec: *spec,
                from: at,
                to: at,
                phases: vec![(PoolState::Running, at, None)],
            }),
            Event::State(state) => self.enter(at, *state),
            Event::ListenerAdded {
                listener, address, ..
            } => self.row(*listener, None, Some(*address), Sign::Open, at),
            Event::Connected { listener, .. } => self.dot(*listener, Sign::Client, at),
            Event::InitBegan {
                child, listener, ..
            } => self.row(*listener, Some(*child), None, Sign::Init, at),
            Event::Network(NetworkEvent::Failed { listener, .. }) => {
                self.dot(*listener, Sign::AcceptFailed, at);
            }
            Event::Network(NetworkEvent::Closed { listener, .. }) => {
                if let Some(row) = self.open_listener(*listener) {
                    row.end_bars(at);
                    row.end = Some((at, None, "closed"));
                }
            }
            Event::Network(NetworkEvent::Dropped { peer }) => self.stream_dropped(at, *peer),
            Event::Reported { report, .. } => self.report(at, &report.event),
            event => self.child_event(at, event),
        }
        if let Some(pool) = self.pools.last_mut() {
            pool.to = at;
        }
    }

    fn enter(&mut self, at: Duration, state: PoolState) {
        let Some(pool) = self.pools.last_mut() else {
            return;
        };
        match pool.phases.last_mut() {
            Some((last, _, to)) if *last != state && to.is_none() => *to = Some(at),
            _ => return,
        }
        if state != PoolState::Stopped {
            pool.phases.push((state, at, None));
        }
    }

    fn row(
        &mut self,
        listener: ListenerId,
        child: Option<ChildId>,
        address: Option<SocketAddr>,
        sign: Sign,
        at: Duration,
    ) {
        let of_listener = |row: &&Row| row.listener == listener;
        let pool = self.rows.iter().find(of_listener).map(|row| row.pool);
        self.rows.push(Row {
            pool: pool.unwrap_or(self.pools.len().saturating_sub(1)),
            listener,
            child,
            address,
            bars: vec![(sign, at, None)],
            returned: None,
            end: None,
        });
    }

    fn child(&mut self, id: ChildId) -> Option<&mut Row> {
        self.rows.iter_mut().find(|row| row.child == Some(id))
    }

    fn listener(&mut self, id: ListenerId) -> Option<&mut Row> {
        let mut rows = self.rows.iter_mut();
        rows.find(|row| row.listener == id && row.child.is_none())
    }

    /// Clients connect to the loopback address of a listener that is bound to any address.
    fn open_listener(&mut self, address: SocketAddr) -> Option<&mut Row> {
        self.rows.iter_mut().find(|row| {
            let reached = row.address.is_some_and(|bound| {
                let ip = bound.ip();
                bound.port() == address.port() && (ip == address.ip() || ip.is_unspecified())
            });
            row.child.is_none() && row.end.is_none() && reached
        })
    }

    fn dot(&mut self, listener: SocketAddr, sign: Sign, at: Duration) {
        if let Some(row) = self.open_listener(listener) {
            row.bars.push((sign, at, Some(at)));
        }
    }

    /// A connection has ended.
    fn stream_dropped(&mut self, at: Duration, peer: SocketAddr) {
        let mut rows = self.rows.iter_mut().rev();
        let row = rows.find(|row| row.child.is_some() && row.address == Some(peer));
        let Some(row) = row else { return };
        let last = self.pools.get(row.pool).and_then(|pool| pool.phases.last());
        let killed = last.is_some_and(|(state, ..)| *state == PoolState::Stopping(Phase::Kill));
        let (sign, how) = match row.returned {
            Some(ServeOutcome::Normal) => (Sign::Good, "returned"),
            Some(ServeOutcome::Clean) => (Sign::Good, "clean exit"),
            Some(ServeOutcome::Error) => (Sign::Bad, "error"),
            Some(ServeOutcome::Disconnected) => (Sign::Bad, "disconnected"),
            Some(ServeOutcome::Panic) => (Sign::Bad, "panic"),
            None if killed => (Sign::Bad, "killed"),
            None => (Sign::Dropped, "dropped"),
        };
        row.finish(at, sign, how);
    }

    fn report(&mut self, at: Duration, event: &Report<SocketAddr>) {
        match event {
            Report::AcceptPaused {
                listener, pause, ..
            } => {
                if let Some(row) = self.listener(*listener) {
                    row.bars.push((Sign::Paused, at, Some(at + *pause)));
                }
            }
            Report::ListenerFailed { listener, .. } => {
                if let Some(row) = self.listener(*listener) {
                    row.replace_end(None, "failed");
                }
            }
            Report::ConnectionFailed { child, failure, .. }
            | Report::AcceptorFailed { child, failure, .. } => {
                let how = match failure {
                    Failure::Error(_) => "error",
                    Failure::Panic(_) => "panic",
                    Failure::Killed => "killed",
                    Failure::Lost => "lost",
                    _ => "failed",
                };
                if let Some(row) = self.child(*child) {
                    row.finish(at, Sign::Bad, how);
                    row.replace_end(Some(Sign::Bad), how);
                }
            }
            _ => {}
        }
    }

    fn child_event(&mut self, at: Duration, event: &Event) {
        let Some(row) = event.child().and_then(|(_, id)| self.child(id)) else {
            return;
        };
        let has = |row: &Row, sign| row.bars.iter().any(|bar| bar.0 == sign);
        match event {
            Event::InitEnded { how, .. } => match how {
                InitOutcome::Waits(_) => {
                    row.end_bars(at);
                    row.begin(Sign::Waiting, at);
                }
                InitOutcome::Ignored => row.finish(at, Sign::Acceptor, "ignored"),
                InitOutcome::Failed => row.finish(at, Sign::Bad, "error in init"),
                InitOutcome::Panicked => row.finish(at, Sign::Bad, "panic in init"),
                InitOutcome::Dropped => row.finish(at, Sign::Acceptor, "dropped in init"),
            },
            Event::ServeBegan { peer, .. } => {
                row.end_bars(at);
                row.address = Some(*peer);
                row.begin(Sign::Serving, at);
            }
            Event::Trapped { .. } if !has(row, Sign::Trapped) => row.begin(Sign::Trapped, at),
            Event::ServeReturned { how, .. } => row.returned = Some(*how),
            Event::TerminateBegan { .. } => {
                row.end_bars(at);
                row.begin(Sign::Terminate, at);
            }
            Event::TerminateEnded { .. } => row.finish(at, Sign::Acceptor, "terminated"),
            Event::StateDropped { .. }
                if !has(row, Sign::Serving) && !has(row, Sign::Terminate) =>
            {
                row.finish(at, Sign::Acceptor, "dropped");
            }
            _ => {}
        }
    }

    /// A child that has not ended when its pool has stopped was abandoned as stuck.
    fn end_stuck_children(&mut self) {
        for row in self.rows.iter_mut().filter(|row| row.child.is_some()) {
            let last = self.pools.get(row.pool).and_then(|pool| pool.phases.last());
            if let Some((.., Some(stopped))) = last {
                row.finish(*stopped, Sign::Bad, "left as stuck");
            }
        }
    }
}

/// Times as positions on the time line of one pool, in milliseconds.
#[derive(Default)]
struct Axis {
    from: f64,
    length: f64,
    /// The time between two ticks.
    step: f64,
}

impl Axis {
    fn new(from: Duration, to: Duration) -> Self {
        let [from, to] = [from, to].map(|time| time.as_secs_f64() * 1_000.0);
        let length = (to - from).max(1.0);
        // 1, 2 or 5 times a power of ten, for about ten ticks.
        let rough = length / 14.0;
        let power = 10_f64.powf(rough.log10().floor());
        let mut steps = [1.0, 2.0, 5.0].into_iter().map(|factor| factor * power);
        Self {
            from,
            length: length * 1.015,
            step: steps.find(|step| *step >= rough).unwrap_or(10.0 * power),
        }
    }

    fn place(&self, milliseconds: f64) -> f64 {
        let part = (milliseconds - self.from) / self.length;
        LEFT + (RIGHT - LEFT) * part.clamp(0.0, 1.0)
    }

    fn place_of(&self, time: Duration) -> f64 {
        self.place(time.as_secs_f64() * 1_000.0)
    }

    /// The times of the ticks, and their positions.
    fn ticks(&self) -> Vec<(f64, f64)> {
        let first = (self.from / self.step).ceil() as u64;
        let last = ((self.from + self.length) / self.step).floor() as u64;
        let times = (first..=last).map(|number| number as f64 * self.step);
        times.map(|time| (time, self.place(time))).collect()
    }
}

#[derive(Default)]
struct Painter {
    svg: String,
    axis: Axis,
    /// The signs that the legend explains.
    shown: BTreeSet<Sign>,
    /// The lower edge of the finished part.
    y: f64,
}

impl Painter {
    fn paint(mut self, timeline: &Timeline) -> String {
        self.y = MARGIN;
        for (number, pool) in timeline.pools.iter().enumerate() {
            let rows = timeline.rows.iter().filter(|row| row.pool == number);
            self.pool(pool, &rows.collect::<Vec<_>>());
        }
        self.legend();
        let rows = timeline.rows.iter();
        let listeners = rows.clone().filter(|row| row.child.is_none()).count();
        let connections = rows.filter(|row| row.child.is_some() && row.address.is_some());
        let connections = connections.count();
        let body = std::mem::take(&mut self.svg);
        let (width, height) = (WIDTH, number(self.y + MARGIN - 4.0));
        let size = (width - 1.0, self.y + MARGIN - 5.0);
        self.rect((0.5, 0.5), size, 8.0, "paper");
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" role=\"img\">\n\
             <title>{listeners} listeners and {connections} connections, in front of the phases of the stop</title>\n\
             <style>{STYLE}</style>\n{}{body}</svg>\n",
            self.svg
        )
    }

    fn pool(&mut self, pool: &Pool, rows: &[&Row]) {
        self.axis = Axis::new(pool.from, pool.to);
        self.text(MARGIN, self.y + 12.0, "head", &pool.name);
        self.text(MARGIN + 60.0, self.y + 12.0, "mute", &pool.spec.to_string());
        self.y += 24.0;
        let listeners = rows.iter().filter(|row| row.child.is_none()).count();
        let height = ROW * (rows.len() + 1) as f64 + 8.0 * (listeners + 1) as f64;
        self.phases(pool, height);
        self.y += ROW;
        for row in rows {
            self.row(row);
        }
        let y = self.y + 12.0;
        self.line((LEFT, y), (RIGHT, y), "axis");
        for (time, x) in self.axis.ticks() {
            self.line((x, y), (x, y + 4.0), "axis");
            self.text(x, y + 16.0, "mute centre", &number(time));
        }
        self.text(RIGHT + 10.0, y + 16.0, "mute", "ms");
        self.y = y + 38.0;
    }

    /// The phases, behind all rows, and their names above the rows.
    fn phases(&mut self, pool: &Pool, height: f64) {
        let top = self.y;
        let places = pool.phases.iter().map(|(state, from, to)| {
            let to = to.map_or(RIGHT, |to| self.axis.place_of(to));
            (phase(*state), self.axis.place_of(*from), to)
        });
        let places: Vec<_> = places.collect();
        for ((class, ..), from, to) in &places {
            let (at, strip) = ((*from, top), format!("strip {class}"));
            self.rect(at, (to - from, height), 0.0, class);
            self.rect(at, (to - from, ROW), 0.0, &strip);
        }
        for (_, x) in self.axis.ticks() {
            self.line((x, top + ROW), (x, top + height + 4.0), "grid");
        }
        for (number, ((class, words, sign), from, to)) in places.iter().enumerate() {
            // A kill usually takes no time: then it is a line with its name beside it.
            if *class == "kill" {
                self.line((*from, top), (*from, top + height), "edge");
            }
            if to - from >= words.len() as f64 * LETTER + 8.0 {
                self.text((from + to) / 2.0, top + 15.0, "centre", words);
            } else if number + 1 == places.len() {
                self.text(to + 6.0, top + 15.0, "name", words);
            } else {
                self.shown.extend(sign);
            }
        }
    }

    fn row(&mut self, row: &Row) {
        let (name, x, class) = match (row.child, row.address) {
            (None, _) => {
                self.y += 8.0;
                (format!("listener {}", row.listener), MARGIN, "head")
            }
            (Some(child), Some(_)) => (format!("connection {child}"), MARGIN + 12.0, "name"),
            (Some(child), None) => (format!("acceptor {child}"), MARGIN + 12.0, "name"),
        };
        let middle = self.y + ROW / 2.0;
        self.text(x, middle + 4.0, class, &name);
        if let Some(address) = row.address {
            let address = address.to_string();
            self.text(MARGIN + 110.0, middle + 4.0, "mute", &address);
        }
        for (sign, from, to) in &row.bars {
            let from = self.axis.place_of(*from);
            let to = to.map_or(RIGHT, |to| self.axis.place_of(to));
            // A bar without a width is not visible, and needs no legend.
            if to - from > 0.05 || matches!(SIGNS[*sign as usize].1, Shape::Dot) {
                self.shown.insert(*sign);
                self.sign(*sign, (from, to), middle);
            }
        }
        if let Some((at, sign, how)) = row.end {
            let x = self.axis.place_of(at);
            if let Some(sign) = sign {
                self.shown.insert(sign);
                self.sign(sign, (x, x), middle);
            }
            let gap = if sign.is_some() { 10.0 } else { 6.0 };
            self.text(x + gap, middle + 4.0, "mute", how);
        }
        self.y += ROW;
    }

    fn sign(&mut self, sign: Sign, (x, to): (f64, f64), y: f64) {
        let (class, shape, _) = SIGNS[sign as usize];
        match shape {
            Shape::Bar(height) => {
                let round = if height > 8.0 { 2.5 } else { 1.5 };
                self.rect((x, y - height / 2.0), (to - x, height), round, class);
            }
            Shape::Dot => self.circle((x, y), 2.3, class),
            Shape::Disc => self.circle((x, y), 4.5, class),
            Shape::Square => self.rect((x - 4.0, y - 4.0), (8.0, 8.0), 0.0, class),
            Shape::Cross => {
                self.line((x - 4.0, y - 4.0), (x + 4.0, y + 4.0), class);
                self.line((x - 4.0, y + 4.0), (x + 4.0, y - 4.0), class);
            }
            Shape::Tick => self.line((x, y - 5.0), (x, y + 5.0), class),
        }
    }

    /// Explains the signs of the picture, in columns.
    fn legend(&mut self) {
        let width = (WIDTH - 2.0 * MARGIN) / LEGEND_COLUMNS as f64;
        let shown = std::mem::take(&mut self.shown);
        for (number, sign) in shown.into_iter().enumerate() {
            if number > 0 && number % LEGEND_COLUMNS == 0 {
                self.y += 20.0;
            }
            let x = MARGIN + (number % LEGEND_COLUMNS) as f64 * width;
            let (_, shape, words) = SIGNS[sign as usize];
            match shape {
                Shape::Bar(_) => self.sign(sign, (x, x + 18.0), self.y),
                Shape::Dot => {
                    self.sign(Sign::Open, (x, x + 18.0), self.y);
                    self.sign(sign, (x + 9.0, x + 9.0), self.y);
                }
                _ => self.sign(sign, (x + 9.0, x + 9.0), self.y),
            }
            self.text(x + 24.0, self.y + 4.0, "mute", words);
        }
        self.y += 10.0;
    }

    fn rect(&mut self, at: (f64, f64), size: (f64, f64), round: f64, class: &str) {
        let [x, y, width, height, rx] = [at.0, at.1, size.0, size.1, round].map(number);
        self.add(&format!(
            "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"{rx}\"/>"
        ));
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        let [x1, y1, x2, y2] = [from.0, from.1, to.0, to.1].map(number);
        self.add(&format!(
            "<line class=\"{class}\" x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\"/>"
        ));
    }

    fn circle(&mut self, centre: (f64, f64), radius: f64, class: &str) {
        let [cx, cy, r] = [centre.0, centre.1, radius].map(number);
        self.add(&format!(
            "<circle class=\"{class}\" cx=\"{cx}\" cy=\"{cy}\" r=\"{r}\"/>"
        ));
    }

    /// The texts are names, addresses and settings, which need no escaping in XML.
    fn text(&mut self, x: f64, baseline: f64, class: &str, words: &str) {
        let [x, y] = [x, baseline].map(number);
        self.add(&format!(
            "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{words}</text>"
        ));
    }

    fn add(&mut self, element: &str) {
        self.svg.push_str(element);
        self.svg.push('\n');
    }
}

/// A number with at most two digits after the point.
fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

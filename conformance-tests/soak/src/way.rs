//! How a client behaves, what it orders the server to do, and the end that its connection is due.

use fastrand::Rng;

/// How a client behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Says something, hears it back, and takes its leave.
    Talks,
    /// The same, with more than is read at once.
    TalksAtLength,
    /// Talks, says nothing for a while, and goes on.
    Stalls,
    /// Connects, and says nothing for a while.
    StartsLate,
    /// Ends what it sends before it has heard what it said, and reads to the end.
    HalfCloses,
    /// Leaves without a word.
    Leaves,
    /// Talks, and leaves without taking its leave.
    TalksAndLeaves,
    /// Resets without a word.
    Resets,
    /// Talks, and resets.
    TalksAndResets,
    /// Has `serve` return the clean exit.
    EndsCleanly,
    /// Has `serve` return an error.
    EndsInError,
    /// Has `serve` panic.
    EndsInPanic,
    /// Has `serve` trap the stop, and takes its leave later unless the stop comes first.
    TrapsStop,
    /// Has `serve` wait for *draining*.
    AwaitsDraining,
    /// Has `serve` trap the stop and stay all the same.
    Stays,
    /// Talks, and does nothing any more.
    Idles,
}

/// How a connection ended, as the server sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// `serve` returned `Ok`.
    Normal,
    /// `serve` returned the clean exit.
    Clean,
    /// `serve` returned the error of a client that is gone.
    Disconnected,
    /// `serve` returned another error.
    Error,
    /// `serve` panicked.
    Panic,
    /// The future of `serve` was dropped: it was killed or stopped.
    Dropped,
}

impl Way {
    /// All of them, in the order in which they are told.
    pub(super) const ALL: [Way; 16] = [
        Way::Talks,
        Way::TalksAtLength,
        Way::Stalls,
        Way::StartsLate,
        Way::HalfCloses,
        Way::Leaves,
        Way::TalksAndLeaves,
        Way::Resets,
        Way::TalksAndResets,
        Way::EndsCleanly,
        Way::EndsInError,
        Way::EndsInPanic,
        Way::TrapsStop,
        Way::AwaitsDraining,
        Way::Stays,
        Way::Idles,
    ];

    /// One of those that come to an end by themselves, the simple ones more often.
    pub(super) fn any(random: &mut Rng) -> Self {
        match random.u32(0..100) {
            0..30 => Way::Talks,
            30..35 => Way::TalksAtLength,
            35..47 => Way::Stalls,
            47..52 => Way::StartsLate,
            52..60 => Way::HalfCloses,
            60..66 => Way::Leaves,
            66..72 => Way::TalksAndLeaves,
            72..77 => Way::Resets,
            77..82 => Way::TalksAndResets,
            82..87 => Way::EndsCleanly,
            87..92 => Way::EndsInError,
            92..95 => Way::EndsInPanic,
            _ => Way::TrapsStop,
        }
    }

    /// How it ends if nobody interferes; nothing, if it then does not end.
    pub(super) fn due(self) -> Option<Outcome> {
        match self {
            Way::Talks
            | Way::TalksAtLength
            | Way::Stalls
            | Way::StartsLate
            | Way::HalfCloses
            | Way::Leaves
            | Way::TalksAndLeaves
            | Way::TrapsStop
            | Way::AwaitsDraining => Some(Outcome::Normal),
            Way::EndsCleanly => Some(Outcome::Clean),
            // The server reads the reset.
            Way::Resets | Way::TalksAndResets => Some(Outcome::Disconnected),
            Way::EndsInError => Some(Outcome::Error),
            Way::EndsInPanic => Some(Outcome::Panic),
            Way::Stays | Way::Idles => None,
        }
    }

    /// What is told of those that behaved so.
    pub(super) fn words(self) -> &'static str {
        match self {
            Way::Talks => "talked",
            Way::TalksAtLength => "talked at length",
            Way::Stalls => "stalled",
            Way::StartsLate => "started late",
            Way::HalfCloses => "half-closed",
            Way::Leaves => "left without a word",
            Way::TalksAndLeaves => "talked and left",
            Way::Resets => "reset",
            Way::TalksAndResets => "talked and reset",
            Way::EndsCleanly => "had a clean exit",
            Way::EndsInError => "had an error",
            Way::EndsInPanic => "had a panic",
            Way::TrapsStop => "trapped the stop",
            Way::AwaitsDraining => "awaited draining",
            Way::Stays => "stayed until killed",
            Way::Idles => "idled",
        }
    }
}

/// What a client has the server do. It is one byte, and the last of what is said; all others are below [`ORDERS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Return `Ok`.
    Leave,
    /// Return the clean exit.
    LeaveCleanly,
    /// Return an error.
    Fail,
    /// Panic.
    Panic,
    /// Say [`FAREWELL`] at the end of what is said, and return `Ok`.
    SayFarewell,
    /// Trap the stop, and leave cleanly once told.
    TrapStop,
    /// Leave once *draining* is set, whatever the stop says.
    AwaitDraining,
    /// Trap the stop, and never leave.
    Stay,
}

/// What is said to who has ended what it sends, and still reads.
pub(super) const FAREWELL: &[u8] = b"farewell";

/// The first byte that is an order.
const ORDERS: u8 = 0x80;

impl Order {
    const ALL: [Order; 8] = [
        Order::Leave,
        Order::LeaveCleanly,
        Order::Fail,
        Order::Panic,
        Order::SayFarewell,
        Order::TrapStop,
        Order::AwaitDraining,
        Order::Stay,
    ];

    pub(super) fn byte(self) -> u8 {
        ORDERS + self as u8
    }

    /// The order that ends what was said, if one does.
    pub(super) fn at_the_end_of(said: &[u8]) -> Option<Self> {
        let place = said.last()?.checked_sub(ORDERS)?;
        Order::ALL.get(usize::from(place)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_order_is_known_by_its_byte_and_words_are_none() {
        for order in Order::ALL {
            assert_eq!(Order::at_the_end_of(&[1, order.byte()]), Some(order));
        }
        for said in [&[][..], &[0x7f], &[Order::Leave.byte(), 7], &[0xff]] {
            assert_eq!(Order::at_the_end_of(said), None);
        }
    }

    #[test]
    fn all_ways_are_told_apart() {
        for (place, way) in Way::ALL.into_iter().enumerate() {
            assert_eq!(way as usize, place);
        }
        let mut words: Vec<_> = Way::ALL.map(Way::words).into();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Way::ALL.len());
    }
}

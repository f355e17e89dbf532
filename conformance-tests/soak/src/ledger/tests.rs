//! A ledger of connections that went well, and what is told of others.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::{OnceLock, mpsc};

use acceptor_core::{
    Acceptor, BoxError, Connection, Init, ListenOptions, ListenerInfo, Pool, Spec,
};

use super::*;
use conformance_tests::reference::{TcpListener, Threads};

/// Tells the ids of all acceptors.
struct Tells(mpsc::Sender<(ListenerId, ChildId)>);

impl Acceptor<TcpListener> for Tells {
    type State = ();
    type Exit = Result<(), BoxError>;

    async fn init(&self, listener: &ListenerInfo<SocketAddr>) -> Result<Init<()>, BoxError> {
        let _ = self.0.send((listener.id, listener.child));
        Ok(Init::Accept(()))
    }

    async fn serve(
        &self,
        _connection: Connection<std::net::TcpStream, SocketAddr>,
        _state: (),
    ) -> Result<(), BoxError> {
        Ok(())
    }
}

/// A listener and two of its children: only a pool makes ids.
fn ids() -> (ListenerId, ChildId, ChildId) {
    static IDS: OnceLock<(ListenerId, ChildId, ChildId)> = OnceLock::new();
    *IDS.get_or_init(|| {
        let (tell, told) = mpsc::channel();
        let pool =
            Pool::start(Threads, Spec::new("ids", Tells(tell))).expect("the spec is allowed");
        let socket = ListenOptions::new((Ipv4Addr::LOCALHOST, 0)).bind();
        let listener = TcpListener::from_std(socket.expect("a port is free"));
        let added = pool.add_listener(listener.expect("it listens"), 2);
        assert!(added.is_ok());
        let next = || told.recv().expect("two acceptors begin");
        let ((listener, one), (_, other)) = (next(), next());
        (listener, one, other)
    })
}

fn client() -> SocketAddr {
    (Ipv4Addr::new(127, 0, 0, 2), 4711).into()
}

fn door() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 80).into()
}

const PLACE: usize = 1;

/// What one connection goes through, step by step.
struct Play(Ledger);

impl Play {
    fn comes(self, way: Way) -> Self {
        assert_eq!(self.0.comes(client(), door(), PLACE, way), Ok(()));
        self
    }

    fn connects(self, way: Way) -> Self {
        let play = self.comes(way);
        play.0.connected(client());
        play
    }

    fn served(self) -> Self {
        let (listener, child, _) = ids();
        self.0.begins(client(), door(), listener, child);
        self
    }

    fn ends(self, outcome: Outcome) -> Self {
        self.0.ends(client(), ids().1, outcome);
        self
    }

    fn sees(self, seen: Seen) -> Self {
        self.0.client_over(client(), seen);
        self
    }

    fn does(self, step: impl FnOnce(&Ledger)) -> Self {
        step(&self.0);
        self
    }

    fn told(self) -> Self {
        self.does(|ledger| ledger.tells(ids().1))
    }

    fn reported_killed(self) -> Self {
        let (listener, child, _) = ids();
        self.does(|ledger| ledger.pages().killed(listener, child, client()))
    }
}

fn play() -> Play {
    Play(Ledger::new(Fate::Runs))
}

/// What is told of it in the end: what was expected.
#[track_caller]
fn check(play: Play, told: &[&str]) {
    play.0.balance();
    let wrong = play.0.wrong();
    let expected: Vec<_> = wrong.iter().map(|wrong| wrong.expected.as_str()).collect();
    assert_eq!(expected, told, "{wrong:?}");
    assert!(play.0.pages().entries.is_empty());
}

#[test]
fn a_connection_that_ends_as_its_client_has_it_is_right() {
    for way in Way::ALL {
        let Some(due) = way.due() else { continue };
        let seen = match way {
            Way::Leaves | Way::TalksAndLeaves | Way::Resets | Way::TalksAndResets => Seen::Left,
            _ => Seen::Done,
        };
        check(play().connects(way).served().ends(due).sees(seen), &[]);
        check(play().connects(way).sees(seen).served().ends(due), &[]);
        // The server may have it before the client knows of it.
        check(
            play()
                .comes(way)
                .served()
                .does(|ledger| ledger.connected(client()))
                .ends(due)
                .sees(seen),
            &[],
        );
    }
}

#[test]
fn both_ends_are_counted() {
    let play = play().connects(Way::EndsCleanly).served();
    assert_eq!((play.0.served(), play.0.ended()), (1, 0));
    assert_eq!(play.0.taken_from(ids().0), 1);
    let play = play.ends(Outcome::Clean).sees(Seen::Done);
    assert_eq!((play.0.served(), play.0.ended()), (1, 1));
    let tally = play.0.balance().tally;
    assert_eq!(
        (tally.all_made(), tally.served, tally.ends.clean),
        (1, 1, 1)
    );
}

#[test]
fn an_address_is_taken_until_both_ends_are_over() {
    let play = play().connects(Way::Leaves).sees(Seen::Left);
    let again = |ledger: &Ledger| ledger.comes(client(), door(), PLACE, Way::Talks);
    assert_eq!(again(&play.0), Err(Taken));
    let play = play.served().ends(Outcome::Normal);
    assert_eq!(again(&play.0), Ok(()));
}

#[test]
fn who_is_served_twice_is_told_of() {
    let twice = play().connects(Way::Talks).served().served();
    let play = twice.ends(Outcome::Normal).sees(Seen::Done);
    check(play, &["each connection is served once"]);
}

#[test]
fn who_is_served_and_has_not_connected_is_told_of() {
    check(
        play().served().ends(Outcome::Normal),
        &["who is served has connected"],
    );
    let listener = |ledger: &Ledger| {
        let (listener, _, other) = ids();
        ledger.begins(door(), door(), listener, other);
    };
    check(play().does(listener), &["who is served has connected"]);
}

#[test]
fn another_local_address_is_told_of_and_a_mapped_one_is_the_same() {
    let served_at = |local: SocketAddr| {
        let mapped = |address: SocketAddr| match address.ip() {
            std::net::IpAddr::V4(ip) => (ip.to_ipv6_mapped(), address.port()).into(),
            std::net::IpAddr::V6(_) => address,
        };
        let (listener, child, _) = ids();
        let play = play().connects(Way::Talks);
        let begins =
            |ledger: &Ledger| ledger.begins(mapped(client()), mapped(local), listener, child);
        play.does(begins).ends(Outcome::Normal).sees(Seen::Done)
    };
    check(served_at(door()), &[]);
    let own = "a connection has its own local address";
    check(served_at((Ipv4Addr::LOCALHOST, 81).into()), &[own]);
    check(served_at((Ipv6Addr::UNSPECIFIED, 80).into()), &[own]);
}

#[test]
fn an_open_listener_that_refuses_is_told_of() {
    let refused = |play: Play| {
        play.comes(Way::Talks)
            .does(|ledger| ledger.refused(client()))
    };
    check(refused(play()), &["an open listener refuses nobody"]);
    check(
        refused(play().does(|ledger| ledger.closes(PLACE + 1))),
        &["an open listener refuses nobody"],
    );
    check(refused(play().does(|ledger| ledger.closes(PLACE))), &[]);
    check(refused(play().does(|ledger| ledger.fate(Fate::Stops))), &[]);
    check(
        refused(play().does(|ledger| ledger.fate(Fate::MayStop))),
        &[],
    );
    let served = play()
        .does(|ledger| ledger.closes(PLACE))
        .comes(Way::Talks)
        .served();
    let served = served
        .does(|ledger| ledger.refused(client()))
        .ends(Outcome::Dropped);
    check(served, &["who is refused is not served"]);
}

#[test]
fn who_is_dropped_and_was_not_told_is_told_of() {
    let dropped = |play: Play| {
        let play = play.connects(Way::Stalls).served().ends(Outcome::Dropped);
        play.sees(Seen::CutShort)
    };
    check(
        dropped(play()),
        &["each connection ends as its client has it"],
    );
    check(dropped(play().told()), &[]);
    check(dropped(play().does(|ledger| ledger.fate(Fate::Stops))), &[]);
    check(
        dropped(play().does(|ledger| ledger.fate(Fate::MayStop))),
        &[],
    );
}

#[test]
fn who_traps_the_stop_leaves_cleanly_only_when_told() {
    let leaves = |play: Play| {
        let play = play.connects(Way::TrapsStop).served().ends(Outcome::Clean);
        play.sees(Seen::CutShort)
    };
    check(leaves(play().told()), &[]);
    check(
        leaves(play()),
        &["each connection ends as its client has it"],
    );
}

#[test]
fn another_end_than_was_ordered_is_told_of() {
    let ended = |way, outcome| play().connects(way).served().ends(outcome).sees(Seen::Done);
    let told = ["each connection ends as its client has it"];
    check(ended(Way::EndsInPanic, Outcome::Normal), &told);
    check(ended(Way::Talks, Outcome::Error), &told);
    check(ended(Way::Idles, Outcome::Normal), &told);
}

#[test]
fn who_is_cut_short_though_the_server_ended_well_is_told_of() {
    let play = play().connects(Way::Talks).served().ends(Outcome::Normal);
    check(
        play.sees(Seen::CutShort),
        &["both ends of a connection agree"],
    );
}

#[test]
fn who_is_not_served_is_told_of_unless_the_listener_closes() {
    let closing = |ledger: &Ledger| ledger.closes(PLACE);
    let served = "each connection is served, unless its listener closes";
    let cut = || play().connects(Way::Talks);
    check(cut().sees(Seen::CutShort), &[served]);
    check(cut().does(closing).sees(Seen::CutShort), &[]);
    check(
        cut()
            .does(|ledger| ledger.fate(Fate::Stops))
            .sees(Seen::CutShort),
        &[],
    );
    // Killed by its id, as it seems, and overtaken by the stop; but without a kill, or a stop, it is not.
    let stops = |ledger: &Ledger| ledger.fate(Fate::Stops);
    check(cut().told().sees(Seen::CutShort).does(stops), &[]);
    check(cut().told().sees(Seen::CutShort), &[served]);
    check(cut().sees(Seen::CutShort).does(stops), &[served]);
    // The closing came too late to be the reason.
    check(cut().sees(Seen::CutShort).does(closing), &[served]);
    check(cut().does(closing).sees(Seen::Done), &[served]);
    check(play().connects(Way::Leaves).sees(Seen::Left), &[]);
    let unserved = cut().does(closing).sees(Seen::CutShort).0.balance();
    assert_eq!(unserved.tally.unserved, 1);
}

#[test]
fn a_client_that_gets_no_answer_or_a_wrong_one_is_told_of() {
    let over = |seen| {
        let play = play().connects(Way::Talks).served().sees(seen);
        play.ends(Outcome::Normal)
    };
    check(
        over(Seen::Nothing),
        &["who is connected gets an answer, or an end"],
    );
    check(
        over(Seen::Mangled),
        &["each client hears what it said, and nothing else"],
    );
}

#[test]
fn who_is_still_there_in_the_end_is_told_of() {
    let served = play().connects(Way::Talks).served();
    check(served, &["nobody is served once the pool is gone"]);
    check(
        play().connects(Way::Talks),
        &["each client comes to an end"],
    );
}

#[test]
fn who_is_killed_was_told_to_be_and_was_there() {
    let killed = |play: Play| {
        let play = play.connects(Way::Stalls).served().ends(Outcome::Dropped);
        play.reported_killed().sees(Seen::CutShort)
    };
    check(killed(play().told()), &[]);
    let untold = killed(play().does(|ledger| ledger.fate(Fate::MayStop)));
    let there = "who is killed was being served, or was to be";
    check(untold, &["who is killed was told to die", there]);
    let twice = killed(play().told()).reported_killed();
    check(twice, &[there]);
}

#[test]
fn who_is_killed_before_it_is_served_is_not_missed() {
    let killed = play().connects(Way::Stalls).told().reported_killed();
    assert_eq!(killed.0.taken_from(ids().0), 1);
    let tally = {
        let killed = killed.sees(Seen::CutShort);
        let tally = killed.0.balance().tally;
        check(killed, &[]);
        tally
    };
    assert_eq!(
        (tally.killed_unserved, tally.unserved, tally.served),
        (1, 0, 0)
    );
}

#[test]
fn only_those_that_were_stopped_and_not_killed_are_asked_away() {
    let stopped = || {
        play()
            .connects(Way::Stalls)
            .served()
            .told()
            .ends(Outcome::Dropped)
    };
    assert_eq!(stopped().0.balance().asked_away, 1);
    assert_eq!(stopped().reported_killed().0.balance().asked_away, 0);
}

#[test]
fn nothing_is_under_way_at_rest() {
    let at_rest = |play: &Play| play.0.at_rest().is_ok();
    let play = play();
    assert!(at_rest(&play));
    let play = play.connects(Way::Leaves);
    assert!(!at_rest(&play));
    let play = play.sees(Seen::Left);
    assert!(!at_rest(&play));
    let play = play.served();
    assert!(!at_rest(&play));
    let play = play.ends(Outcome::Normal);
    assert!(at_rest(&play));
    let backlog = play.connects(Way::Leaves).sees(Seen::Left);
    assert!(at_rest(&backlog.does(|ledger| ledger.closes(PLACE))));
}

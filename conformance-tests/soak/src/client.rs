//! One client: a blocking socket, what it says, and what it sees.
//!
//! Where the kind of client allows it the server closes first, and the client
//! answers with a reset: then neither end lingers in TIME_WAIT. Invariant: a
//! client that is connected tells the ledger exactly once how it ended, after
//! its socket is closed.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use socket2::{Domain, SockRef, Socket, Type};

use super::ledger::Seen;
use super::scene::{Place, Scene};
use super::way::{FAREWELL, Order, Way};

/// A socket that has an address, and is not connected yet.
pub(super) struct Caller {
    socket: Socket,
    from: SocketAddr,
}

impl Caller {
    /// A socket with an address on the loopback.
    ///
    /// # Errors
    ///
    /// What the system says, for example for want of descriptors.
    pub(super) fn new(random: &mut Rng) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((source(random), 0)).into())?;
        let from = socket.local_addr()?.as_socket();
        let from = from.ok_or(ErrorKind::Unsupported)?;
        Ok(Self { socket, from })
    }

    /// Connects. Nothing, if it is refused or the system does not let it.
    pub(super) fn connect(self, scene: &Arc<Scene>, place: Place, way: Way) -> Option<Client> {
        let Self { socket, from } = self;
        let (address, number) = (place.address, place.number);
        // Taken by one that the server has not done with: the next caller has another address.
        scene.ledger.comes(from, address, number, way).ok()?;
        let patience = scene.patience.length();
        let connected = socket.connect_timeout(&address.into(), patience);
        let mut client = Client {
            socket: socket.into(),
            from,
            way,
            scene: Arc::clone(scene),
        };
        let seen = match connected.and_then(|()| client.has_patience(patience)) {
            Ok(()) => {
                scene.connected(from);
                return Some(client);
            }
            Err(error) => match error.kind() {
                ErrorKind::ConnectionRefused => {
                    scene.ledger.refused(from);
                    return None;
                }
                ErrorKind::TimedOut => Seen::Nothing,
                ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted => Seen::CutShort,
                _ => {
                    scene.ledger.withdraws(from);
                    return None;
                }
            },
        };
        // Connected for a moment, as it seems.
        scene.connected(from);
        client.ends(seen);
        None
    }
}

/// Where the loopback is a whole network, clients are spread over it: no address runs out of ports.
fn source(random: &mut Rng) -> Ipv4Addr {
    if cfg!(target_os = "linux") {
        Ipv4Addr::new(127, 0, 0, random.u8(2..252))
    } else {
        Ipv4Addr::LOCALHOST
    }
}

/// A client that is connected.
pub(super) struct Client {
    socket: TcpStream,
    from: SocketAddr,
    way: Way,
    scene: Arc<Scene>,
}

/// How far a client has come.
enum Step {
    /// It pauses, and goes on later.
    Pauses,
    Over(Seen),
}

impl Client {
    fn has_patience(&mut self, patience: Duration) -> io::Result<()> {
        // What the other end did meanwhile is seen when it is read.
        let _ = self.socket.set_nodelay(true);
        self.socket.set_read_timeout(Some(patience))?;
        self.socket.set_write_timeout(Some(patience))
    }

    /// Behaves as it is its way, up to its pause if it has one; then it is given back.
    pub(super) fn begins(mut self, random: &mut Rng) -> Option<Self> {
        match self.first_part(random) {
            Ok(Step::Pauses) => Some(self),
            Ok(Step::Over(seen)) | Err(seen) => {
                self.ends(seen);
                None
            }
        }
    }

    /// Goes on after its pause, to the end.
    pub(super) fn goes_on(mut self) {
        let seen = self.second_part().unwrap_or_else(|seen| seen);
        self.ends(seen);
    }

    fn first_part(&mut self, random: &mut Rng) -> Result<Step, Seen> {
        let over = |seen| Ok(Step::Over(seen));
        match self.way {
            Way::StartsLate => return Ok(Step::Pauses),
            Way::HalfCloses => return over(self.half_closes(&words(random, 100))?),
            Way::Leaves | Way::Resets => return over(Seen::Left),
            Way::TrapsStop => self.orders(Order::TrapStop)?,
            Way::AwaitsDraining => self.orders(Order::AwaitDraining)?,
            Way::Stays => self.orders(Order::Stay)?,
            _ => {
                let length = match self.way {
                    Way::TalksAtLength => 32 * 1024,
                    _ => random.usize(1..100),
                };
                self.says(&words(random, length))?;
            }
        }
        match self.way {
            Way::TalksAndLeaves | Way::TalksAndResets => over(Seen::Left),
            Way::EndsCleanly => over(self.ends_with(Order::LeaveCleanly)?),
            Way::EndsInError => over(self.ends_with(Order::Fail)?),
            Way::EndsInPanic => over(self.ends_with(Order::Panic)?),
            Way::Talks | Way::TalksAtLength => over(self.ends_with(Order::Leave)?),
            _ => Ok(Step::Pauses),
        }
    }

    fn half_closes(&mut self, words: &[u8]) -> Result<Seen, Seen> {
        let order = [Order::SayFarewell.byte()];
        self.speaks(words)?;
        self.speaks(&order)?;
        let closed = self.socket.shutdown(Shutdown::Write);
        closed.map_err(|error| seen(&error))?;
        self.hears(words)?;
        self.hears(&order)?;
        self.hears(FAREWELL)?;
        self.sees_the_end()
    }

    fn second_part(&mut self) -> Result<Seen, Seen> {
        self.says(b"again")?;
        self.ends_with(Order::Leave)
    }

    /// Waits for the server to end it, and says nothing more.
    pub(super) fn end(mut self) {
        let seen = match self.sees_the_end() {
            // The end of the others is not of their choice.
            Ok(_) if self.way != Way::AwaitsDraining => Seen::CutShort,
            Ok(seen) | Err(seen) => seen,
        };
        self.ends(seen);
    }

    /// Says something and hears it back, in the midst of its pause.
    pub(super) fn talks(&mut self) -> Result<(), Seen> {
        self.says(b"still there?")
    }

    fn ends_with(&mut self, order: Order) -> Result<Seen, Seen> {
        self.orders(order)?;
        self.sees_the_end()
    }

    fn orders(&mut self, order: Order) -> Result<(), Seen> {
        self.says(&[order.byte()])
    }

    /// Says something, and hears it back.
    fn says(&mut self, words: &[u8]) -> Result<(), Seen> {
        self.speaks(words)?;
        self.hears(words)
    }

    fn speaks(&mut self, words: &[u8]) -> Result<(), Seen> {
        self.socket.write_all(words).map_err(|error| seen(&error))
    }

    fn hears(&mut self, words: &[u8]) -> Result<(), Seen> {
        let mut heard = vec![0; words.len()];
        match self.socket.read_exact(&mut heard) {
            Ok(()) if heard == words => Ok(()),
            Ok(()) => Err(Seen::Mangled),
            Err(error) => Err(seen(&error)),
        }
    }

    fn sees_the_end(&mut self) -> Result<Seen, Seen> {
        match self.socket.read(&mut [0]) {
            Ok(0) => Ok(Seen::Done),
            Ok(_) => Err(Seen::Mangled),
            Err(error) => Err(seen(&error)),
        }
    }

    fn ends(self, seen: Seen) {
        let Self {
            socket,
            from,
            way,
            scene,
        } = self;
        let leaves = matches!(way, Way::Leaves | Way::TalksAndLeaves);
        if !(leaves && seen == Seen::Left) {
            let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
        }
        drop(socket);
        scene.ledger.client_over(from, seen);
    }
}

/// What a failed call has shown.
fn seen(error: &io::Error) -> Seen {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Seen::Nothing,
        _ => Seen::CutShort,
    }
}

/// Something to say that holds no order.
fn words(random: &mut Rng, length: usize) -> Vec<u8> {
    std::iter::repeat_with(|| random.u8(..0x80))
        .take(length)
        .collect()
}

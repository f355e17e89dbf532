//! Children that wait to be dropped are not stuck, and one that blocks is (S8); in memory, on any runtime.
#![allow(clippy::unwrap_used, reason = "all of this file is test code")]

use std::future::{pending, poll_fn};
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use acceptor_core::{
    Connection, EndKind, Listener, NoHandshake, Phase, Pool, Runtime, Spec, acceptor_fn,
};

use super::block_on;

const CHILDREN: usize = 20_000;
const DROP: Duration = Duration::from_micros(200);
const PATIENCE: Duration = Duration::from_secs(120);

/// A connection whose drop keeps the thread busy.
enum Stream {
    Slow,
    /// It blocks in `serve`, after a message, until the test releases it.
    Blocks(Sender<()>, Receiver<()>),
}

impl Drop for Stream {
    fn drop(&mut self) {
        let began = Instant::now();
        while began.elapsed() < DROP {
            std::hint::spin_loop();
        }
    }
}

#[derive(Clone, Default)]
struct Port(Arc<Mutex<(Vec<Stream>, Option<Waker>)>>);

impl Port {
    fn connect(&self, streams: impl Iterator<Item = Stream>) {
        let waker = {
            let mut state = self.0.lock().unwrap();
            state.0.extend(streams);
            state.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Listener for Port {
    type Io = Stream;
    type Addr = ();
    type Handshake = NoHandshake;

    async fn accept(&self) -> io::Result<(Stream, ())> {
        let accepted = poll_fn(|cx| {
            let mut state = self.0.lock().unwrap();
            match state.0.pop() {
                Some(stream) => Poll::Ready(stream),
                None => {
                    state.1 = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        });
        Ok((accepted.await, ()))
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }

    fn io_local_addr(_stream: &Stream) -> io::Result<()> {
        Ok(())
    }

    fn handshake(&self) -> NoHandshake {
        NoHandshake
    }
}

/// Kills a pool of many slow children, and this many that block; checks how many are stuck.
pub(crate) fn check(runtime: impl Runtime, blocking: usize) {
    let serve = acceptor_fn(|connection: Connection<Stream, ()>| async move {
        if let Stream::Blocks(begins, goes_on) = &connection.stream {
            let _ = begins.send(());
            let _ = goes_on.recv();
        }
        pending::<()>().await;
        Ok(())
    });
    let pool = Pool::start(runtime, Spec::new("slow", serve)).unwrap();
    let port = Port::default();
    pool.add_listener(port.clone(), 10).unwrap();
    port.connect((0..CHILDREN).map(|_| Stream::Slow));
    let began = Instant::now();
    while pool.counts().unwrap().connections < CHILDREN {
        assert!(began.elapsed() < PATIENCE, "{:?}", pool.counts());
        thread::yield_now();
    }
    let (begins, begun) = channel();
    let (mut released, mut blocks) = (Vec::new(), Vec::new());
    for _ in 0..blocking {
        let (release, goes_on) = channel();
        released.push(release);
        blocks.push(Stream::Blocks(begins.clone(), goes_on));
    }
    port.connect(blocks.into_iter());
    for _ in 0..blocking {
        begun.recv_timeout(PATIENCE).unwrap();
    }
    let killed = pool.kill();
    let (sender, result) = channel();
    thread::spawn(move || {
        let _ = sender.send(block_on(killed));
    });
    let report = result.recv_timeout(PATIENCE).unwrap();
    assert_eq!(report.stuck, blocking, "{report}");
    let ends = report.connections(Phase::Kill);
    assert_eq!(ends.of(EndKind::Killed), CHILDREN, "{report}");
    drop(released);
}

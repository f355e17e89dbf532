//! The client of `measure.sh`: connections that each send 16 bytes and get them back.
//!
//! `AT_ONCE` of them are opened together, then each is served, then all are closed. Between these steps it pauses, so that the
//! server sleeps before the next step: the server's work then does not depend on timing.
//!
//! Usage: `client ADDRESS CONNECTIONS AT_ONCE PAUSE_MICROSECONDS`. If `AT_ONCE` is all of them, it prints a line once they are
//! served, and closes them when its input ends.
//!
//! The environment may set how many connections are `OPEN` meanwhile, and how many `LISTENERS` there are, at the addresses from
//! `ADDRESS` on, of which at most a hundred are connected to in turn.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::thread::sleep;
use std::time::Duration;

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, connections, at_once, pause] = arguments.as_slice() else {
        eprintln!("usage: client ADDRESS CONNECTIONS AT_ONCE PAUSE_MICROSECONDS");
        return Ok(());
    };
    let number = |text: &String| text.parse::<usize>().map_err(std::io::Error::other);
    let (connections, at_once) = (number(connections)?, number(at_once)?);
    let pause = Duration::from_micros(number(pause)? as u64);
    let address: SocketAddrV4 = address.parse().map_err(std::io::Error::other)?;
    let addresses = addresses(address, number_of("LISTENERS").max(1));
    let mut addresses = addresses.iter().cycle();
    let mut open = Vec::new();
    let target = number_of("OPEN");
    while open.len() < target {
        let more = (target - open.len()).min(64);
        let first = open.len();
        for _ in 0..more {
            open.push(TcpStream::connect(address)?);
        }
        echo(&mut open[first..])?;
    }
    let mut left = connections;
    while left > 0 {
        let now = left.min(at_once);
        left -= now;
        let mut streams = Vec::with_capacity(now);
        for address in addresses.by_ref().take(now) {
            streams.push(TcpStream::connect(address)?);
        }
        sleep(pause);
        echo(&mut streams)?;
        sleep(pause);
        if connections > 1 && at_once == connections {
            println!("served");
            std::io::stdin().read_to_end(&mut Vec::new())?;
        }
        drop(streams);
        sleep(pause);
    }
    Ok(())
}

fn number_of(name: &str) -> usize {
    let number = std::env::var(name).ok().and_then(|text| text.parse().ok());
    number.unwrap_or(0)
}

fn addresses(first: SocketAddrV4, listeners: usize) -> Vec<SocketAddrV4> {
    let far = (listeners / 100).max(1);
    let indexes = (0..listeners).step_by(far).take(100);
    let ip = |index: usize| Ipv4Addr::from(u32::from(*first.ip()) + index as u32);
    indexes
        .map(|index| SocketAddrV4::new(ip(index), first.port()))
        .collect()
}

fn echo(streams: &mut [TcpStream]) -> std::io::Result<()> {
    for stream in streams.iter_mut() {
        stream.write_all(b"0123456789abcdef")?;
    }
    for stream in streams {
        stream.read_exact(&mut [0; 16])?;
    }
    Ok(())
}

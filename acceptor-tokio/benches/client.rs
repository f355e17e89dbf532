//! The client of `measure.sh`: connections that each send 16 bytes and get them back.
//!
//! So many are made at once: all are opened, then each is served, then all are closed. Between these steps it pauses, so that the
//! server sleeps before the next one comes: then what the server does not depend on who was faster.
//!
//! Usage: `client ADDRESS CONNECTIONS AT_ONCE PAUSE_MICROSECONDS`. If `AT_ONCE` is all of them it says so once they are
//! served, and closes them when its input ends.

use std::io::{Read, Write};
use std::net::TcpStream;
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
    let mut left = connections;
    while left > 0 {
        let now = left.min(at_once);
        left -= now;
        let mut streams = Vec::with_capacity(now);
        for _ in 0..now {
            streams.push(TcpStream::connect(address)?);
        }
        sleep(pause);
        for stream in &mut streams {
            stream.write_all(b"0123456789abcdef")?;
        }
        for stream in &mut streams {
            stream.read_exact(&mut [0; 16])?;
        }
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

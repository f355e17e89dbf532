//! The client of `measure.sh`: one connection after the other, each with 16 bytes there and back.
//!
//! Between the steps it pauses, so that the server sleeps before the next one
//! comes: then the server's system calls do not depend on who was faster.
//!
//! Usage: `client ADDRESS CONNECTIONS PAUSE_MICROSECONDS`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, connections, pause] = arguments.as_slice() else {
        eprintln!("usage: client ADDRESS CONNECTIONS PAUSE_MICROSECONDS");
        return Ok(());
    };
    let number = |text: &String| text.parse().map_err(std::io::Error::other);
    let (connections, pause) = (number(connections)?, Duration::from_micros(number(pause)?));
    for _ in 0..connections {
        let mut stream = TcpStream::connect(address)?;
        std::thread::sleep(pause);
        stream.write_all(b"0123456789abcdef")?;
        let mut back = [0; 16];
        stream.read_exact(&mut back)?;
        std::thread::sleep(pause);
        drop(stream);
        std::thread::sleep(pause);
    }
    Ok(())
}

//! A descriptor that cannot accept is refused, with an error that names its type (V4); the tests of every adapter include this file.
//!
//! The including file defines the constructors, each as a function of a standard listener: `from_std`, and
//! `from_runtime`, which first converts it to the runtime's own listener.
#![allow(clippy::unwrap_used, reason = "all of this file is test code")]

use std::fs::File;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};

use super::{adapter, from_runtime, from_std};

const LOOPBACK: &str = "127.0.0.1:0";

#[track_caller]
fn check_error(made: std::io::Result<adapter::TcpListener>, is: &str) {
    let error = made.unwrap_err();
    let give = "give a TCP socket that listens, such as `ListenOptions::bind` returns";
    assert_eq!(error.to_string(), format!("cannot accept on {is}: {give}"));
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[track_caller]
fn check_refused(descriptor: impl Into<OwnedFd>, is: &str) {
    let socket = TcpListener::from(descriptor.into());
    check_error(from_std(socket.try_clone().unwrap()), is);
    check_error(from_runtime(socket), is);
}

#[test]
fn udp_socket_is_refused() {
    let socket = UdpSocket::bind(LOOPBACK).unwrap();
    let address = socket.local_addr().unwrap();
    check_refused(socket, &format!("a UDP socket on {address}"));
}

#[test]
fn connected_socket_is_refused() {
    let listener = TcpListener::bind(LOOPBACK).unwrap();
    let address = listener.local_addr().unwrap();
    let client = TcpStream::connect(address).unwrap();
    let is = format!("a TCP socket that is connected to {address}");
    check_refused(client, &is);
    let (unix, _other) = UnixStream::pair().unwrap();
    check_refused(unix, "a Unix stream socket that is connected");
}

/// Only these systems report whether a socket listens. After a shutdown it no longer does.
#[cfg(any(target_os = "android", target_os = "linux"))]
#[test]
fn non_listening_socket_is_refused() {
    let listener = TcpListener::bind(LOOPBACK).unwrap();
    let address = listener.local_addr().unwrap();
    let socket = TcpStream::from(OwnedFd::from(listener));
    socket.shutdown(std::net::Shutdown::Both).unwrap();
    let is = format!("a TCP socket on {address} that does not listen");
    check_refused(socket, &is);
}

#[test]
fn unix_listener_is_refused() {
    let name = format!("acceptor-{}-unix-listener", std::process::id());
    let path = std::env::temp_dir().join(name);
    let listener = UnixListener::bind(&path);
    std::fs::remove_file(&path).unwrap();
    check_refused(listener.unwrap(), "a Unix stream socket that listens");
}

#[test]
fn pipe_is_refused() {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    check_refused(reader, "a pipe");
    check_refused(writer, "a pipe");
}

/// The runtimes cannot make a listener of it: epoll does not support files.
#[test]
fn file_is_refused() {
    let socket = TcpListener::from(OwnedFd::from(File::open("Cargo.toml").unwrap()));
    check_error(from_std(socket), "a regular file");
}

#[test]
fn listening_socket_is_accepted() {
    for address in [LOOPBACK, "[::1]:0", "0.0.0.0:0"] {
        let address: SocketAddr = address.parse().unwrap();
        for made in [from_std, from_runtime] {
            let socket = TcpListener::bind(address).unwrap();
            assert!(made(socket).is_ok(), "{address}");
        }
    }
}

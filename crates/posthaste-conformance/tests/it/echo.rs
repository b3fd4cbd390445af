//! The server program that the tests kill: it echoes, and notes each start in its data folder.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::ExitCode;

use posthaste_conformance::fault::say;

/// Set in the environment of the server: where it listens.
pub(crate) const ADDR: &str = "ECHO_ADDR";
/// Memory that it takes, in bytes: such a process takes long to die.
pub(crate) const BALLAST: &str = "ECHO_BALLAST";
/// The file that gets a line at each start; no file if not set.
pub(crate) const STARTS: &str = "ECHO_STARTS";

pub(crate) fn serve(addr: &str) -> ExitCode {
    let ballast = std::env::var(BALLAST).map_or(0, |bytes| bytes.parse().unwrap());
    let _ballast = std::hint::black_box(vec![1_u8; ballast]);
    let listener = TcpListener::bind(addr).unwrap();
    if let Ok(path) = std::env::var(STARTS) {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        file.unwrap().write_all(b"started\n").unwrap();
    }
    say(format_args!("ready on {addr}"));
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 1024];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(&buffer[..count]).is_err() {
                    return;
                }
            }
        });
    }
    ExitCode::SUCCESS
}

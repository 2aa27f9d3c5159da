//! What this machine can do at best: no server gets below these.

use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Instant;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::measure;

/// A limit and its value, with the unit.
pub struct Limit {
    pub name: &'static str,
    pub value: String,
}

/// The payload of a full TLS record.
const RECORD: usize = 16 * 1024;

/// All limits, on the servers' core.
pub fn measure(quick: bool) -> Vec<Limit> {
    let share = if quick { 5 } else { 1 };
    let limit = |name, value| Limit { name, value };
    vec![
        limit(
            "AES-256-GCM, aws-lc-rs, 16 KiB records",
            measure::on_server_core(|| seal(400_000 / share)),
        ),
        limit("AES-256-GCM, openssl speed, 16 KiB", openssl()),
        limit(
            "loopback write of 64 KiB from memory",
            loopback(40_000 / share, false),
        ),
        limit(
            "loopback sendfile of 64 KiB",
            loopback(40_000 / share, true),
        ),
        limit(
            "a system call (getppid)",
            measure::on_server_core(|| system_call(2_000_000 / share)),
        ),
    ]
}

fn seal(times: usize) -> String {
    let key = UnboundKey::new(&AES_256_GCM, &[7; 32]).unwrap();
    let key = LessSafeKey::new(key);
    let mut record = vec![0; RECORD];
    let before = measure::thread_seconds();
    for number in 0..times {
        let mut nonce = [0; NONCE_LEN];
        nonce[..8].copy_from_slice(&number.to_le_bytes());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut record);
        _ = black_box(tag.unwrap());
    }
    let seconds = measure::thread_seconds() - before;
    format!("{:.1} GB/s", (times * RECORD) as f64 / 1e9 / seconds)
}

fn openssl() -> String {
    let mut command = Command::new("openssl");
    command.args([
        "speed",
        "-mr",
        "-seconds",
        "1",
        "-bytes",
        "16384",
        "-evp",
        "aes-256-gcm",
    ]);
    let Ok(output) = measure::on_server_core(|| command.output()) else {
        return "openssl is not installed".to_owned();
    };
    let text = String::from_utf8_lossy(&output.stdout);
    // +F:22:AES-256-GCM:4233.22e6, the last field being bytes in a second.
    let rate = text.lines().find_map(|line| {
        line.strip_prefix("+F:")?
            .rsplit(':')
            .next()?
            .parse::<f64>()
            .ok()
    });
    rate.map_or_else(
        || "not understood".to_owned(),
        |rate| format!("{:.1} GB/s", rate / 1e9),
    )
}

/// The least of some tries: who else uses the cores makes a great difference.
fn loopback(times: usize, from_file: bool) -> String {
    let tries = (0..5).map(|_| send(times / 5, from_file));
    let least = tries.fold(f64::INFINITY, f64::min);
    format!("{least:.2} CPU s/GB")
}

/// Sends to a thread on the clients' core that reads and forgets; gives CPU
/// seconds for a gigabyte.
fn send(times: usize, from_file: bool) -> f64 {
    const PIECE: usize = 64 * 1024;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut other, _) = listener.accept().unwrap();
    let reader = thread::spawn(move || {
        let mut buffer = vec![0; 4 * PIECE];
        while other.read(&mut buffer).unwrap() > 0 {}
    });
    let bytes = vec![7; PIECE];
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    let seconds = measure::on_server_core(|| {
        let before = measure::thread_seconds();
        for _ in 0..times {
            if from_file {
                let mut at = 0;
                while at < PIECE as u64 {
                    let left = PIECE - at as usize;
                    rustix::fs::sendfile(&stream, &file, Some(&mut at), left).unwrap();
                }
            } else {
                stream.write_all(&bytes).unwrap();
            }
        }
        measure::thread_seconds() - before
    });
    drop(stream);
    reader.join().unwrap();
    seconds / (times * PIECE) as f64 * 1e9
}

fn system_call(times: usize) -> String {
    let started = Instant::now();
    for _ in 0..times {
        black_box(rustix::process::getppid());
    }
    format!(
        "{:.0} ns",
        started.elapsed().as_secs_f64() / times as f64 * 1e9
    )
}

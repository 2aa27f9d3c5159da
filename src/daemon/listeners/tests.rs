//! Plans of listeners that run, and what `pulse`'s tests need of them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::*;
use crate::config::{Limits, ZeroCopy};
use crate::connection::answering::Answerer;
use crate::connection::slots::Slots;
use crate::http::redirect::Redirect;
use crate::reactors::Reactors;

fn redirecting() -> Purpose {
    Purpose {
        tls: None,
        answerer: Answerer::Redirect(Arc::new(Redirect::new(None, 443))),
        zero_copy: ZeroCopy::Off,
    }
}

/// Room for so many connections, which drain at a word.
pub(in crate::daemon) fn shared(connections: usize) -> (watch::Sender<bool>, Shared) {
    let (drain, draining) = watch::channel(false);
    let shared = Shared {
        limits: Arc::new(ArcSwap::from_pointee(Limits::default())),
        slots: Arc::new(Slots::new(connections)),
        drain: draining,
        reactors: Arc::new(Reactors::start(std::num::NonZero::<usize>::MIN).unwrap()),
        sent: Arc::default(),
        rests: Arc::default(),
    };
    (drain, shared)
}

/// Redirects at a port of 127.0.0.1.
pub(in crate::daemon) fn redirects(shared: &Shared) -> (SocketAddr, Vec<Serving>) {
    let anywhere = listen_for_redirects(&["127.0.0.1:0".parse().unwrap()]);
    let plan = plan(&anywhere, &[], &Passed::default()).ok().unwrap();
    let Address::Tcp(address) = plan.addresses()[0].clone() else {
        panic!("it is a port");
    };
    (address, serve(plan, shared))
}

fn listen_for_redirects(redirect: &[SocketAddr]) -> Listen {
    Listen {
        https: Vec::new(),
        redirect: redirect.iter().copied().map(Address::Tcp).collect(),
        http: Vec::new(),
        admin: Address::Unix("/nowhere".into()),
        control: crate::config::Placed {
            value: "/nowhere".into(),
            place: std::path::Path::new("serve.toml").into(),
        },
        public_name: None,
        places: Vec::new(),
    }
}

fn serve(plan: Plan, shared: &Shared) -> Vec<Serving> {
    plan.carry_out(Vec::new(), |_| redirecting(), shared)
        .serving
}

/// To be bound and to listen are two things: of two sockets that overlap the
/// second one finds out only when it is to listen. By then the first listener
/// of the same plan has a client that looked for the one that runs.
#[tokio::test]
async fn a_plan_that_fails_late_keeps_its_clients() {
    let (_drain, shared) = shared(Limits::default().connections);
    let everywhere = listen_for_redirects(&["0.0.0.0:0".parse().unwrap()]);
    let running = plan(&everywhere, &[], &Passed::default()).ok().unwrap();
    let Address::Tcp(everywhere) = running.addresses()[0].clone() else {
        panic!("it is a port");
    };
    let running = serve(running, &shared);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let other = free.local_addr().unwrap().port();
    drop(free);
    let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let wanted = listen_for_redirects(&[
        local(everywhere.port()),
        local(other),
        ([0, 0, 0, 0], other).into(),
    ]);
    let error = plan(&wanted, &running, &Passed::default())
        .err()
        .expect("two cannot have it");
    assert!(
        format!("{:#}", error.reason).contains("another process has the port"),
        "{:#}",
        error.reason
    );
    assert_eq!(error.listening.len(), 2);
    let mut client = TcpStream::connect(local(everywhere.port())).unwrap();
    error.withdraw(&running, &shared).await;
    let reply = spawn_blocking(move || {
        client.set_read_timeout(Some(Duration::from_secs(20)))?;
        client.write_all(b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")?;
        let mut reply = String::new();
        client.read_to_string(&mut reply).map(|_| reply)
    });
    let reply = reply.await.unwrap().expect("an answer");
    assert!(reply.starts_with("HTTP/1.1 308 "), "{reply}");
    assert!(TcpStream::connect(local(other)).is_err(), "it is closed");
    end(running).await;
}

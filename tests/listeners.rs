//! Where the server can listen: IPv4, IPv6 for both, Unix sockets.

mod common;

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use common::client::{Client, connect};
use common::{Setup, TestRepo, TestServer};
use ostree_serve::config::{Address, Config};
use ostree_serve::daemon::{Daemon, StartError};
use ostree_serve::listener::{Listener, Peer};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

fn port(server: &TestServer, number: usize) -> u16 {
    match &server.addresses()[number] {
        Address::Tcp(address) => address.port(),
        Address::Unix(path) => panic!("{path:?}"),
    }
}

#[test]
fn the_ipv6_wildcard_serves_ipv4_as_well() {
    let repo = TestRepo::new();
    let server = Setup::new()
        .listen("https = []\nredirect = []\nhttp = [\"[::]:0\"]\n")
        .repo("/repo", &repo.path())
        .start();
    let port = port(&server, 0);
    for address in [
        SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
    ] {
        let response = Client::over(connect(address)).get("/repo/config");
        assert_eq!(response.status, 200, "{address}");
    }
}

#[test]
fn several_listeners_serve_the_same() {
    let repo = TestRepo::new();
    let server = Setup::new()
        .listen("https = []\nredirect = []\nhttp = [\"127.0.0.1:0\", \"127.0.0.2:0\", \"unix:a.sock\"]\n")
        .repo("/repo", &repo.path())
        .start();
    for address in server.addresses() {
        let response = match address {
            Address::Tcp(address) => Client::over(connect(*address)).get("/repo/config"),
            Address::Unix(path) => {
                Client::over(UnixStream::connect(path).unwrap()).get("/repo/config")
            }
        };
        assert_eq!(response.status, 200, "{address}");
    }
}

#[test]
fn a_unix_socket_is_removed_at_the_end_and_replaced_at_the_start() {
    let repo = TestRepo::new();
    let setup = Setup::new()
        .listen("https = []\nredirect = []\nhttp = [\"unix:http.sock\"]\n")
        .repo("/repo", &repo.path());
    let socket = setup.directory().join("http.sock");
    // What a killed process leaves behind: a name that nobody listens at.
    drop(UnixListener::bind(&socket).unwrap());
    let server = setup.start();
    let mut client = Client::over(UnixStream::connect(&socket).unwrap());
    assert_eq!(client.get("/repo/summary").body, repo.read("summary"));
    drop(client);
    server.stop();
    assert!(!socket.exists());
}

fn start(setup: &Setup) -> Result<Daemon, StartError> {
    let file = setup.directory().join("serve.toml");
    let config = Config::parse(&setup.config(), &file).unwrap();
    let runtime = ostree_serve::daemon::runtime().unwrap();
    runtime.block_on(async { Daemon::start(&config) })
}

/// A socket that listens and takes nobody more, and who is in its queue.
fn full_queue(path: &Path) -> (OwnedFd, UnixStream) {
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    rustix::net::listen(&socket, 0).unwrap();
    (socket, UnixStream::connect(path).unwrap())
}

/// Why it does not start.
fn refusal(setup: &Setup) -> String {
    match start(setup) {
        Ok(_) => panic!("it starts"),
        Err(StartError::Runtime(error)) => format!("{error:#}"),
        Err(StartError::Configuration(findings)) => panic!("{findings:?}"),
    }
}

#[test]
fn a_unix_socket_in_use_or_a_file_in_its_place_is_left_alone() {
    let repo = TestRepo::new();
    let setup = Setup::new()
        .listen("https = []\nredirect = []\nhttp = [\"unix:http.sock\"]\n")
        .repo("/repo", &repo.path());
    let socket = setup.directory().join("http.sock");

    let other = UnixListener::bind(&socket).unwrap();
    assert!(refusal(&setup).contains("another process listens there; stop it"));
    assert!(socket.exists());
    drop(other);
    fs::remove_file(&socket).unwrap();

    // One whose queue is full is not waited for.
    let full = full_queue(&socket);
    assert!(refusal(&setup).contains("another process listens there; stop it"));
    drop(full);
    fs::remove_file(&socket).unwrap();

    fs::write(&socket, "precious").unwrap();
    let said = refusal(&setup);
    assert!(
        said.contains("cannot listen at unix:") && said.contains("http.sock"),
        "{said}"
    );
    assert_eq!(fs::read_to_string(&socket).unwrap(), "precious");
}

/// Everything that the configuration names and that is not good is reported at
/// once, and nothing is served.
#[test]
fn bad_repositories_and_certificates_keep_the_server_from_starting() {
    let repo = TestRepo::new();
    let setup = Setup::new()
        .repo("/good", &repo.path())
        .repo("/missing", Path::new("/nonexistent/repo"))
        .statics("/", Path::new("/nonexistent/www"))
        .tls("client_ca = \"none.pem\"");
    match start(&setup) {
        Err(StartError::Configuration(findings)) => {
            let said: Vec<String> = findings.iter().map(ToString::to_string).collect();
            assert_eq!(said.len(), 3, "{said:?}");
        }
        Err(StartError::Runtime(error)) => panic!("{error:#}"),
        Ok(_) => panic!("it starts"),
    }
}

/// A drain takes in who is in the kernel's queue. Where the machine is busy the
/// runtime has not heard of them all, which once got clients reset.
#[tokio::test(flavor = "current_thread")]
async fn who_is_in_the_queue_is_found_there() {
    let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
    let Address::Tcp(address) = *listener.address() else {
        panic!("{listener:?}");
    };
    // Nothing is awaited from here on, so the runtime hears of nobody.
    let clients: Vec<_> = (0..50).map(|_| connect(address)).collect();
    let mut let_in = Vec::new();
    while let Some((_, peer)) = listener.accept_queued().unwrap() {
        let_in.push(peer);
    }
    let expected: Vec<_> = clients
        .iter()
        .map(|client| Peer::Tcp(client.local_addr().unwrap()))
        .collect();
    assert_eq!(let_in, expected);
}

/// Who comes while a listener goes is not reset: it asks again, and finds the
/// next one.
#[tokio::test]
async fn a_closed_door_leads_to_the_next_listener() {
    let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.address().clone();
    let Address::Tcp(tcp) = address else {
        panic!("{address}");
    };
    let early = connect(tcp);
    listener.close_door().unwrap();
    let flags = SocketFlags::NONBLOCK;
    let late =
        rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
    // Its first packet is on the way when this returns.
    assert_eq!(rustix::net::connect(&late, &tcp), Err(Errno::INPROGRESS));

    let (_, peer) = listener.accept_queued().unwrap().unwrap();
    assert_eq!(peer, Peer::Tcp(early.local_addr().unwrap()));
    assert!(listener.accept_queued().unwrap().is_none());
    drop(listener);
    let next = Listener::bind(&address).unwrap();
    let accepted = tokio::time::timeout(Duration::from_secs(20), next.accept()).await;
    let (_, peer) = accepted.expect("it asks again").unwrap();
    let name = rustix::net::getsockname(&late).unwrap();
    assert_eq!(peer, Peer::Tcp(name.try_into().unwrap()));
}

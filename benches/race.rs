//! The race that every file server has with a writer, run against nginx and
//! against this server, one after the other: the same writer, the same verifying
//! clients, and how their pulls ended. `race.md` has a result.
//!
//! Needs ostree, gpg and nginx.

#[path = "../tests/common/mod.rs"]
mod common;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::client::{Client, try_connect};
use common::publisher::{Follower, Kind, Publisher, Remote, Tally, delay, while_pulling};
use common::transport::Transport;
use common::{Setup, TestServer, wait_for};
use tempfile::TempDir;

const ROUNDS: usize = 100;
const CLIENTS: usize = 8;
const NGINX: &str = "/usr/sbin/nginx";

fn main() {
    if !Path::new(NGINX).is_file() {
        eprintln!("{NGINX} is missing: apt-get install nginx-light, or dnf install nginx-core");
        std::process::exit(1);
    }
    let nginx = race(|repo| {
        let nginx = Nginx::start(repo);
        (nginx.remotes(), nginx)
    });
    let ours = race(|repo| {
        let servers =
            Transport::TLS.map(|transport| transport.start(Setup::new().repo("/repo", repo)));
        (servers.each_ref().map(remote), servers)
    });
    println!("{ROUNDS} updates, {CLIENTS} verifying clients, half of them over HTTP/1.1\n");
    println!("| | pulls | commits seen | BAD signature | no signature | 404 | other | backwards |");
    println!("|---|---|---|---|---|---|---|---|");
    row("nginx", &nginx);
    row("ostree-serve", &ours);
    let delays = publication_delays();
    let median = delays[delays.len() / 2];
    let worst = delays[delays.len() - 1];
    println!("\nFrom the end of `ostree summary` to the new one being served, nobody pulling:");
    println!("median {median:?}, worst {worst:?} of {}", delays.len());
}

fn row(name: &str, tally: &Tally) {
    let counts = Kind::ALL.map(|kind| tally.count(kind).to_string());
    let (pulls, seen) = (tally.pulls, tally.seen.len());
    println!("| {name} | {pulls} | {seen} | {} |", counts.join(" | "));
    let others = tally.failures.iter().filter(|it| it.kind == Kind::Other);
    for failure in others.take(3) {
        let error = failure.text.lines().find(|it| it.starts_with("error:"));
        eprintln!("{name}: {}", error.unwrap_or(&failure.text));
    }
}

/// Updates a repository while clients pull it from a server.
fn race<S>(serve: impl FnOnce(&Path) -> ([Remote; 2], S)) -> Tally {
    let publisher = Publisher::new(2000);
    let (remotes, _server) = serve(&publisher.repo());
    let remotes = remotes.iter().cycle().take(CLIENTS);
    let followers: Vec<_> = remotes
        .map(|remote| Follower::new(remote, &publisher.key))
        .collect();
    while_pulling(
        &followers,
        &publisher.history,
        |_, _| {},
        || {
            for _ in 0..ROUNDS {
                publisher.publish();
            }
        },
    )
}

fn remote(server: &TestServer) -> Remote {
    Remote {
        url: format!("{}/repo", server.url()),
        certificate: Some(server.certificate()),
    }
}

/// In ascending order.
fn publication_delays() -> Vec<Duration> {
    let publisher = Publisher::new(2000);
    let server = Setup::new().repo("/repo", &publisher.repo()).start();
    let mut client = Client::plain(&server);
    let mut delays: Vec<_> = (0..20)
        .map(|_| {
            publisher.publish();
            let summary = fs::read(publisher.repo().join("summary")).unwrap();
            delay(|| client.get("/repo/summary").body == summary)
        })
        .collect();
    delays.sort();
    delays
}

/// nginx, as one would set it up for a directory of files.
struct Nginx {
    directory: TempDir,
    ports: [u16; 2],
    child: Child,
}

impl Nginx {
    fn start(repo: &Path) -> Self {
        let directory = TempDir::new().unwrap();
        let ports = [free_port(), free_port()];
        let root = directory.path().join("root");
        fs::create_dir(&root).unwrap();
        std::os::unix::fs::symlink(repo, root.join("repo")).unwrap();
        let names = ["localhost".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        fs::write(directory.path().join("cert.pem"), made.cert.pem()).unwrap();
        let key = made.signing_key.serialize_pem();
        fs::write(directory.path().join("key.pem"), key).unwrap();
        let at = directory.path().display();
        let [http2, http1] = ports;
        let config = format!(
            "pid {at}/pid;\nerror_log {at}/error.log;\nworker_processes 2;\n\
             user {user};\n\
             events {{}}\n\
             http {{\n  access_log off;\n  sendfile on;\n  server {{\n    \
             listen 127.0.0.1:{http2} ssl http2;\n    listen 127.0.0.1:{http1} ssl;\n    \
             ssl_certificate {at}/cert.pem;\n    ssl_certificate_key {at}/key.pem;\n    \
             root {at}/root;\n  }}\n}}\n",
            user = user(),
        );
        let file = directory.path().join("nginx.conf");
        fs::write(&file, config).unwrap();
        let child = Command::new(NGINX)
            .args(["-g", "daemon off;", "-e"])
            .arg(directory.path().join("error.log"))
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        for port in ports {
            wait_for("nginx to listen", || {
                try_connect(([127, 0, 0, 1], port).into()).ok()
            });
        }
        Self {
            directory,
            ports,
            child,
        }
    }

    fn certificate(&self) -> PathBuf {
        self.directory.path().join("cert.pem")
    }

    fn remotes(&self) -> [Remote; 2] {
        self.ports.map(|port| Remote {
            url: format!("https://localhost:{port}/repo"),
            certificate: Some(self.certificate()),
        })
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master ends its workers; killing it would not.
        let pid = rustix::process::Pid::from_child(&self.child);
        _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        _ = self.child.wait();
    }
}

/// The directory of the repository is this user's alone.
fn user() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

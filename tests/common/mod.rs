//! What every test binary stands on: a repository, a server with the production
//! accept loop, and the barest of clients.

// Each test binary uses its own part of this.
#![allow(dead_code)]

pub mod certificate;
pub mod client;
pub mod command;
pub mod demo;
pub mod flatpak;
pub mod hyper_client;
pub mod in_process;
pub mod manager;
pub mod process;
pub mod publisher;
pub mod transport;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ostree_serve::config::{Address, Config};
use ostree_serve::daemon::{Control, Daemon, Outcome, Refused, Reloaded};
use ostree_serve::demo::REPOSITORY;
use tempfile::TempDir;
use tokio::sync::oneshot;

/// The commit that the demonstration repository's main ref points at.
pub const TIP: &str = "b0c15a61bf0c34cca077b2b70c7344f9cac45776b8dff4277c8c608f28ed4068";

/// A copy of the demonstration repository that a test may change.
pub struct TestRepo {
    directory: TempDir,
}

impl TestRepo {
    pub fn new() -> Self {
        Self::within(TempDir::new().unwrap())
    }

    /// One whose files are on a disk, which is not said of the directory for
    /// temporary files.
    pub fn on_disk() -> Self {
        Self::within(TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap())
    }

    fn within(directory: TempDir) -> Self {
        tar::Archive::new(REPOSITORY)
            .unpack(directory.path().join("repo"))
            .unwrap();
        Self { directory }
    }

    /// The repository's directory.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("repo")
    }

    /// A file of the repository.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Puts a file of this many bytes in the place of an object, and gives its
    /// name. What it holds is no object: only real clients would mind.
    pub fn plant_object(&self, len: usize) -> String {
        let name = object_name(len as u64);
        let path = self.file(&name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, pattern(len)).unwrap();
        name
    }

    /// Cuts a file to this many bytes, in place.
    pub fn truncate(&self, name: &str, len: u64) {
        let file = fs::File::options().write(true).open(self.file(name));
        file.unwrap().set_len(len).unwrap();
    }

    /// The first file whose name ends like this.
    pub fn find(&self, suffix: &str) -> String {
        let mut found = Vec::new();
        walk(&self.path(), &mut found);
        let mut names: Vec<String> = found
            .iter()
            .map(|path| {
                path.strip_prefix(self.path())
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned()
            })
            .filter(|name| name.ends_with(suffix))
            .collect();
        names.sort();
        names
            .into_iter()
            .next()
            .unwrap_or_else(|| panic!("no file *{suffix}"))
    }
}

/// The name of an object that no real repository has.
pub fn object_name(number: u64) -> String {
    format!("objects/ee/{number:062x}.filez")
}

/// Bytes in which every place looks different from the next.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64)
        .map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
        .collect()
}

/// A summary without refs, `(a(s(taya{sv}))a{sv})`, whose metadata holds these
/// bytes, at least 64 KiB of them, as `x`.
pub fn summary_with(bytes: &[u8]) -> Vec<u8> {
    let offset = |len: usize| u32::try_from(len).unwrap().to_le_bytes();
    let key = b"x\0";
    // The value, a `v`, begins at a multiple of eight and ends with its type;
    // then comes where the key ends.
    let entry = [&key[..], &[0; 6], bytes, b"\0ay", &offset(key.len())].concat();
    let metadata = [&entry[..], &offset(entry.len())].concat();
    // The refs, none, end where the metadata begins.
    [&metadata[..], &offset(0)].concat()
}

fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() && !path.is_symlink() {
            true => walk(&path, found),
            false => found.push(path),
        }
    }
}

/// What `[transfer]` says where a test does not say it: the way that content is to
/// take, named by the environment, so that `tests/run` can have all of them taken.
fn forced_transfer() -> &'static str {
    const VARIABLE: &str = "OSTREE_SERVE_TEST_TRANSFER";
    let ways = [
        // As it is without a word: most content comes from memory.
        ("cached", ""),
        // Every object is opened and read for each request.
        ("read", "cache = \"0B\"\nzero_copy = \"off\"\n"),
        // Every object is opened for each request; the kernel sends the large ones.
        ("sendfile", "cache = \"0B\"\nzero_copy = \"auto\"\n"),
    ];
    let Some(wanted) = std::env::var_os(VARIABLE) else {
        return "";
    };
    let way = ways.iter().find(|(name, _)| *name == wanted);
    way.map(|(_, lines)| *lines).unwrap_or_else(|| {
        let known = ways.map(|(name, _)| name).join(", ");
        panic!("{VARIABLE}={}: known are {known}", wanted.display())
    })
}

/// How a [`TestServer`] is to be.
pub struct Setup {
    directory: TempDir,
    listen: String,
    control: String,
    mounts: String,
    limits: String,
    transfer: String,
    protocols: &'static str,
    extra_tls: String,
    sandbox: String,
    own_certificate: bool,
}

impl Setup {
    pub fn new() -> Self {
        Self {
            directory: TempDir::new().unwrap(),
            listen: ["https", "http", "redirect"]
                .map(|key| format!("{key} = [\"127.0.0.1:0\"]\n"))
                .concat(),
            // Beside the configuration, out of the way of a server on this machine.
            control: "control.sock".to_owned(),
            mounts: String::new(),
            limits: String::new(),
            transfer: String::new(),
            protocols: r#"["h2", "http/1.1"]"#,
            extra_tls: String::new(),
            // Whether this machine has the server's user is no business of a test.
            sandbox: "user = \"root\"\n".to_owned(),
            own_certificate: false,
        }
    }

    /// Serves this repository under a prefix.
    pub fn repo(mut self, prefix: &str, path: &Path) -> Self {
        self.mounts += &format!("[[repo]]\nprefix = {prefix:?}\npath = {path:?}\n");
        self
    }

    /// A line of the last repository.
    pub fn repo_line(mut self, line: &str) -> Self {
        self.mounts += &format!("{line}\n");
        self
    }

    /// Serves this directory's files under a prefix.
    pub fn statics(mut self, prefix: &str, path: &Path) -> Self {
        self.mounts += &format!("[[static]]\nprefix = {prefix:?}\npath = {path:?}\n");
        self
    }

    /// What `[listen]` says, instead of a port of each kind on 127.0.0.1.
    pub fn listen(mut self, text: &str) -> Self {
        self.listen = text.to_owned();
        self
    }

    /// Where the control socket is, instead of beside the configuration.
    pub fn control(mut self, path: &str) -> Self {
        self.control = path.to_owned();
        self
    }

    /// A line of `[limits]`.
    pub fn limit(mut self, line: &str) -> Self {
        self.limits += &format!("{line}\n");
        self
    }

    /// A line of `[transfer]`.
    pub fn transfer(mut self, line: &str) -> Self {
        self.transfer += &format!("{line}\n");
        self
    }

    /// Each request opens its file: nothing that was read is remembered.
    pub fn uncached(self) -> Self {
        self.transfer("cache = \"0B\"")
    }

    /// HTTP/1.1 alone over TLS.
    pub fn http1_only(mut self) -> Self {
        self.protocols = r#"["http/1.1"]"#;
        self
    }

    /// HTTP/2 alone over TLS.
    pub fn http2_only(mut self) -> Self {
        self.protocols = r#"["h2"]"#;
        self
    }

    /// A line of `[tls]`.
    pub fn tls(mut self, line: &str) -> Self {
        self.extra_tls += &format!("{line}\n");
        self
    }

    /// What `[sandbox]` says.
    pub fn sandbox(mut self, text: &str) -> Self {
        self.sandbox = text.to_owned();
        self
    }

    /// The test puts `certificate.pem` and `key.pem` in place itself.
    pub fn own_certificate(mut self) -> Self {
        self.own_certificate = true;
        self
    }

    /// The directory of the configuration and the certificate.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The configuration, with certificate and key in place.
    pub fn config(&self) -> String {
        if !self.own_certificate {
            self.make_certificate();
        }
        let transfer = match &*self.transfer {
            "" => forced_transfer(),
            said => said,
        };
        format!(
            "[listen]\n{}control = {:?}\n[tls]\ncertificate = \"certificate.pem\"\nprivate_key = \"key.pem\"\n\
             protocols = {}\n{}[limits]\n{}[transfer]\n{}[sandbox]\n{}{}",
            self.listen,
            self.control,
            self.protocols,
            self.extra_tls,
            self.limits,
            transfer,
            self.sandbox,
            self.mounts
        )
    }

    fn make_certificate(&self) {
        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        fs::write(self.directory().join("certificate.pem"), made.cert.pem()).unwrap();
        fs::write(
            self.directory().join("key.pem"),
            made.signing_key.serialize_pem(),
        )
        .unwrap();
    }

    pub fn start(self) -> TestServer {
        TestServer::start(self)
    }
}

/// A server in this process, on ports of its own.
pub struct TestServer {
    directory: TempDir,
    addresses: Vec<Address>,
    control: Control,
    shutdown: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Outcome>>,
}

impl TestServer {
    /// Serves one repository at `/repo`.
    pub fn of(repo: &TestRepo) -> Self {
        Setup::new().repo("/repo", &repo.path()).start()
    }

    fn start(setup: Setup) -> Self {
        // Its log is of interest to whoever asks for it.
        if std::env::var_os(ostree_serve::logging::FILTER_VARIABLE).is_some() {
            ostree_serve::logging::start();
        }
        let file = setup.directory().join("serve.toml");
        let text = setup.config();
        fs::write(&file, &text).unwrap();
        let config =
            Config::parse(&text, &file).unwrap_or_else(|findings| panic!("{findings:?}\n{text}"));
        let (shutdown, told) = oneshot::channel::<()>();
        let (started, addresses) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = ostree_serve::daemon::runtime().unwrap();
            runtime.block_on(async move {
                let daemon = Daemon::start(&config).unwrap();
                started
                    .send((daemon.addresses(), daemon.control()))
                    .unwrap();
                daemon
                    .run(async {
                        _ = told.await;
                    })
                    .await
            })
        });
        let (addresses, control) = addresses.recv().expect("the server starts");
        Self {
            directory: setup.directory,
            addresses,
            control,
            shutdown: Some(shutdown),
            thread: Some(thread),
        }
    }

    /// Where it listens: HTTPS, plaintext, redirect, each as configured.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    fn tcp(&self, number: usize) -> SocketAddr {
        match &self.addresses[number] {
            Address::Tcp(address) => *address,
            Address::Unix(path) => panic!("{path:?}"),
        }
    }

    /// Where it serves HTTPS.
    pub fn https(&self) -> SocketAddr {
        self.tcp(0)
    }

    /// Where it serves content in plaintext.
    pub fn http(&self) -> SocketAddr {
        self.tcp(1)
    }

    /// Where it redirects.
    pub fn redirect(&self) -> SocketAddr {
        self.tcp(2)
    }

    /// The beginning of HTTPS addresses, without a slash at the end.
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.https().port())
    }

    /// The directory of the configuration and the certificate.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// What its configuration file says.
    pub fn configuration(&self) -> String {
        fs::read_to_string(self.directory().join("serve.toml")).unwrap()
    }

    /// Changes its configuration file and has it reloaded. The addresses are
    /// those afterwards.
    pub fn reload(&mut self, text: &str) -> Result<Reloaded, Refused> {
        fs::write(self.directory().join("serve.toml"), text).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let reloaded = runtime.unwrap().block_on(self.control.reload())?;
        self.addresses.clone_from(&reloaded.addresses);
        Ok(reloaded)
    }

    /// What it can be told.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// The certificate, which is its own authority.
    pub fn certificate(&self) -> PathBuf {
        self.directory.path().join("certificate.pem")
    }

    /// Tells the server to drain, without waiting.
    pub fn begin_shutdown(&mut self) {
        if let Some(shutdown) = self.shutdown.take() {
            _ = shutdown.send(());
        }
    }

    /// Drains the server and tells how that went.
    pub fn stop(mut self) -> Outcome {
        self.begin_shutdown();
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.begin_shutdown();
        if let Some(thread) = self.thread.take() {
            let result = thread.join();
            assert!(
                result.is_ok() || std::thread::panicking(),
                "the server panicked"
            );
        }
    }
}

/// Waits until what is in a repository's directory is what is served of it.
pub fn wait_until_published(server: &TestServer, prefix: &str, repo: &Path) {
    let names = ["summary", "summary.sig", "summary.idx"];
    wait_for("the directory's state to be published", || {
        let mut client = client::Client::plain(server);
        let is_served = |name: &&str| {
            let reply = client.get(&format!("{prefix}/{name}"));
            match fs::read(repo.join(name)) {
                Ok(bytes) => reply.status == 200 && reply.body == bytes,
                Err(_) => reply.status == 404,
            }
        };
        names.iter().all(is_served).then_some(())
    });
}

/// Waits until `condition` gives something; panics after a generous while.
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

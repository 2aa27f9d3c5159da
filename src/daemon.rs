//! Start-up and shutdown, as lists of named steps.

use std::sync::Arc;
use std::time::SystemTime;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use crate::config::{Address, Config, Limits};
use crate::connection::{self, Answerer, Purpose, Shared};
use crate::finding::{Finding, Severity};
use crate::http::Service;
use crate::http::redirect::Redirect;
use crate::listener::Listener;
use crate::routes::Routes;
use crate::tls::{self, TlsAcceptor};

/// Why the server does not start.
#[derive(Debug)]
pub enum StartError {
    /// Something that the configuration names is not as it must be.
    Configuration(Vec<Finding>),
    /// The machine does not let it.
    Runtime(anyhow::Error),
}

impl From<Vec<Finding>> for StartError {
    fn from(findings: Vec<Finding>) -> Self {
        Self::Configuration(findings)
    }
}

impl From<anyhow::Error> for StartError {
    fn from(error: anyhow::Error) -> Self {
        Self::Runtime(error)
    }
}

/// A server with everything open and bound, about to serve.
pub struct Daemon {
    listeners: Vec<(Listener, Purpose)>,
    limits: Limits,
    service: Arc<Service>,
}

/// How the serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every transfer was finished.
    Drained,
    /// The drain deadline passed; this many connections were cut off.
    CutOff(usize),
}

impl Daemon {
    /// Opens and binds everything. Needs a runtime around it.
    ///
    /// # Errors
    /// Everything that stands in the way, as far as it can be told at once.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        let limits = fit_into_descriptors(config.limits);
        let acceptor = load_tls(config);
        let routes = Routes::open(config);
        let (acceptor, routes) = match (acceptor, routes) {
            (Ok(acceptor), Ok(routes)) => (acceptor, routes),
            (acceptor, routes) => {
                let errors = [acceptor.err(), routes.err()];
                return Err(errors
                    .into_iter()
                    .flatten()
                    .flatten()
                    .collect::<Vec<_>>()
                    .into());
            }
        };
        let service = Arc::new(Service::new(routes));
        let listeners = bind(config, acceptor, Arc::clone(&service))?;
        Ok(Self {
            listeners,
            limits,
            service,
        })
    }

    /// What answers for the content.
    pub fn service(&self) -> Arc<Service> {
        Arc::clone(&self.service)
    }

    /// Where it listens, in the order of the configuration: HTTPS, plaintext,
    /// redirect.
    pub fn addresses(&self) -> Vec<Address> {
        self.listeners
            .iter()
            .map(|(listener, _)| listener.address().clone())
            .collect()
    }

    /// Serves until `shutdown` is ready, then lets transfers finish.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Outcome {
        let (drain, draining) = watch::channel(false);
        let slots = Arc::new(Semaphore::new(self.limits.connections));
        let mut accepting = tokio::task::JoinSet::new();
        for (listener, purpose) in self.listeners {
            let shared = Shared {
                limits: self.limits,
                slots: Arc::clone(&slots),
                drain: draining.clone(),
            };
            accepting.spawn(connection::serve(listener, purpose, shared));
        }
        drop(draining);

        shutdown.await;
        tracing::info!(
            deadline = %humantime::format_duration(self.limits.drain),
            "shutting down; transfers may finish"
        );
        // Fails if there is nobody left to tell.
        _ = drain.send(true);
        let all_gone = async {
            while accepting.join_next().await.is_some() {}
            drain.closed().await;
        };
        match timeout(self.limits.drain, all_gone).await {
            Ok(()) => Outcome::Drained,
            Err(_) => {
                let count = drain.receiver_count();
                tracing::warn!(
                    connections = count,
                    remedy = "a longer `limits.drain`, with TimeoutStopSec= above it",
                    "the drain deadline passed; connections are cut off"
                );
                Outcome::CutOff(count)
            }
        }
    }
}

/// Ends with the first SIGTERM or SIGINT. The second one ends the process at
/// once, after `farewell`.
///
/// # Errors
/// If signals cannot be received.
pub fn termination(
    farewell: impl FnOnce() + Send + 'static,
) -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (first, told) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        next().await;
        // Fails if the server has ended by itself.
        _ = first.send(());
        next().await;
        tracing::warn!("second signal: leaving at once");
        farewell();
        std::process::exit(EXIT_RUNTIME);
    });
    Ok(async move {
        _ = told.await;
    })
}

/// Exit code: something failed while running.
pub const EXIT_RUNTIME: i32 = 1;
/// Exit code: the command line was wrong (`EX_USAGE` of sysexits(3)).
pub const EXIT_USAGE: i32 = 64;
/// Exit code: the configuration, or what it names, was wrong (`EX_CONFIG`).
pub const EXIT_CONFIG: i32 = 78;

fn load_tls(config: &Config) -> Result<Option<TlsAcceptor>, Vec<Finding>> {
    let Some(tls) = &config.tls else {
        return Ok(None);
    };
    let identity = tls::load(tls)?;
    let facts = &identity.certificate;
    for finding in facts.findings(&tls.certificate.value, SystemTime::now()) {
        log_finding(&finding);
    }
    tracing::info!(
        names = facts.names.join(", "),
        expires = %humantime::format_rfc3339_seconds(facts.not_after),
        "certificate loaded"
    );
    Ok(Some(TlsAcceptor::from(identity.config)))
}

/// A finding that does not keep the server from starting.
fn log_finding(finding: &Finding) {
    let remedy = finding.remedy.as_deref();
    match finding.severity {
        Severity::Error => tracing::error!(place = %finding.place, remedy, "{}", finding.reason),
        Severity::Warning => tracing::warn!(place = %finding.place, remedy, "{}", finding.reason),
        Severity::Note => tracing::info!(place = %finding.place, "{}", finding.reason),
    }
}

fn bind(
    config: &Config,
    acceptor: Option<TlsAcceptor>,
    service: Arc<Service>,
) -> anyhow::Result<Vec<(Listener, Purpose)>> {
    let listen = &config.listen;
    let content = Answerer::Content(service);
    let plain = |answerer: &Answerer| Purpose {
        tls: None,
        answerer: answerer.clone(),
    };
    let encrypted = Purpose {
        tls: acceptor,
        answerer: content.clone(),
    };
    let mut listeners = bind_all(&listen.https, "HTTPS", &encrypted)?;
    let port = https_port(&listeners);
    let redirect = Redirect::new(listen.public_name.clone(), port);
    let redirect = Answerer::Redirect(Arc::new(redirect));
    listeners.extend(bind_all(
        &listen.http,
        "HTTP with content",
        &plain(&content),
    )?);
    listeners.extend(bind_all(
        &listen.redirect,
        "HTTP to redirect",
        &plain(&redirect),
    )?);
    Ok(listeners)
}

fn bind_all(
    addresses: &[Address],
    what: &str,
    purpose: &Purpose,
) -> anyhow::Result<Vec<(Listener, Purpose)>> {
    let bind_one = |address| {
        let listener = Listener::bind(address)?;
        tracing::info!(address = %listener.address(), "listening for {what}");
        Ok((listener, purpose.clone()))
    };
    addresses.iter().map(bind_one).collect()
}

/// The port that redirects lead to: the first one of HTTPS. If there is none,
/// the configuration has a public name, and the standard port is meant.
fn https_port(listeners: &[(Listener, Purpose)]) -> u16 {
    listeners
        .iter()
        .find_map(|(listener, _)| match listener.address() {
            Address::Tcp(address) => Some(address.port()),
            Address::Unix(_) => None,
        })
        .unwrap_or(443)
}

/// Raises the limit of open files as far as it goes, and lowers the number of
/// connections until each can have a socket and a file, with some to spare. An
/// HTTP/2 connection may have more large files under way; if they use up what
/// there is, replies wait for descriptors.
fn fit_into_descriptors(limits: Limits) -> Limits {
    /// For listeners, repositories, the log, and the runtime.
    const SPARE: u64 = 100;
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
    let Some(available) = getrlimit(Resource::Nofile).current else {
        return limits;
    };
    let possible = usize::try_from(available.saturating_sub(SPARE) / 2).unwrap_or(usize::MAX);
    if possible >= limits.connections {
        return limits;
    }
    let connections = possible.max(1);
    tracing::warn!(
        wanted = limits.connections,
        connections,
        remedy = format!(
            "LimitNOFILE={} in the service's unit",
            limits.connections as u64 * 2 + SPARE
        ),
        "the limit of open files allows fewer connections than configured"
    );
    Limits {
        connections,
        ..limits
    }
}

/// Runs a future to its end in a [`runtime`] of its own.
///
/// What is still running then is left behind: a thread that waits for a disk
/// which no longer answers must not keep the process from ending.
///
/// # Errors
/// As [`runtime`], and the future's.
pub fn block_on<T, E: From<anyhow::Error>>(
    future: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let runtime = runtime()?;
    let result = runtime.block_on(future);
    runtime.shutdown_background();
    result
}

/// The runtime that everything happens in.
///
/// # Errors
/// If threads or descriptors cannot be had.
pub fn runtime() -> anyhow::Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?)
}

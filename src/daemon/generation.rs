//! A configuration with everything that it names opened and found good. Nothing
//! is bound, and nothing that runs has changed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::opening::Stage;
use super::process::{descriptors, fit_into_descriptors};
use super::reload::LOOK;
use crate::config::{Config, Limits, Tls};
use crate::finding::{Finding, Severity};
use crate::routes::Routes;
use crate::tls::{self, Identity, Renewal};

/// What is served, as whom, and under which limits.
#[derive(Clone)]
pub(super) struct Generation {
    pub(super) config: Config,
    /// Those of the configuration, as far as the machine lets them be.
    pub(super) limits: Limits,
    /// Present if the configuration has `[tls]`.
    pub(super) identity: Option<Arc<Identity>>,
    pub(super) routes: Arc<Routes>,
}

impl Generation {
    /// Opens what a configuration names. Repositories and certificates that are
    /// as in the `running` generation are taken over from it. What it waits for
    /// is told as the `stage`.
    ///
    /// # Errors
    /// Everything that is wrong; never empty.
    pub(super) fn open(
        config: Config,
        running: Option<&Self>,
        stage: &Stage,
    ) -> Result<Self, Vec<Finding>> {
        if let Some(tls) = &config.tls {
            stage.is(tls.certificate.place.clone(), "the certificate's files");
        }
        let identity = open_identity(&config, running.and_then(|it| it.identity.as_ref()));
        touch(&config, stage);
        let routes = Routes::open(&config, running.map(|it| &*it.routes));
        let (identity, routes) = match (identity, routes) {
            (Ok(identity), Ok(routes)) => (identity, routes),
            (identity, routes) => {
                let errors = [identity.err(), routes.err()];
                return Err(errors.into_iter().flatten().flatten().collect());
            }
        };
        Ok(Self {
            limits: fit_into_descriptors(config.limits),
            config,
            identity,
            routes: Arc::new(routes),
        })
    }

    /// Where the configuration says that the certificate is.
    pub(super) fn certificate_file(&self) -> &Path {
        let tls = self.config.tls.as_ref();
        tls.map_or(Path::new(""), |tls| &tls.certificate.value)
    }

    /// All files that the certificate is made from; none without `[tls]`.
    pub(super) fn certificate_files(&self) -> Vec<PathBuf> {
        let files = |tls: &Tls| {
            let files = [
                Some(&tls.certificate),
                Some(&tls.private_key),
                tls.client_ca.as_ref(),
            ];
            files
                .into_iter()
                .flatten()
                .map(|it| it.value.clone())
                .collect()
        };
        self.config.tls.as_ref().map(files).unwrap_or_default()
    }

    /// Logs that the machine allows fewer connections than configured, unless that
    /// is how it was with the generation `before`.
    pub(super) fn announce_limits(&self, before: Option<&Self>) {
        let outcome = |it: &Self| (it.config.limits.connections, it.limits.connections);
        let (wanted, connections) = outcome(self);
        if wanted == connections || before.map(outcome) == Some(outcome(self)) {
            return;
        }
        let descriptors = descriptors(&self.config.limits);
        tracing::warn!(
            wanted,
            connections,
            remedy = format!("LimitNOFILE={descriptors} in the service's unit"),
            "the limit of open files allows fewer connections than configured"
        );
    }

    /// Logs which certificate is served with, and what operators should know
    /// about it.
    pub(super) fn announce_certificate(&self) {
        let Some(identity) = &self.identity else {
            return;
        };
        let (facts, file, now) = (
            &identity.certificate,
            self.certificate_file(),
            SystemTime::now(),
        );
        facts.findings(file, now).iter().for_each(log_finding);
        // Not every client looks at these.
        let public_name = self.config.listen.public_name.as_ref();
        let surprising = public_name.and_then(|name| facts.other_host(file, name));
        for finding in identity.chain_findings(file, now).iter().chain(&surprising) {
            log_finding(&finding.as_warning());
        }
        tracing::info!(
            serial = facts.serial,
            names = facts.names.join(", "),
            expires = %humantime::format_rfc3339_seconds(facts.not_after),
            "certificate loaded"
        );
    }
}

/// Touches each directory that is to be opened. That changes nothing, and says
/// which of them does not answer.
fn touch(config: &Config, stage: &Stage) {
    let repos = config.repos.iter().map(|it| (&it.mount, "repository"));
    let statics = config.statics.iter().map(|it| (it, "directory"));
    for (mount, what) in repos.chain(statics) {
        let path = &mount.path.value;
        stage.is(
            mount.path.place.clone(),
            format!("the {what} `{}`", path.display()),
        );
        // Whoever opens it says what is wrong.
        _ = path.metadata();
    }
    stage.is(
        &*config.file,
        "a file of the repositories, or one of their `verify_keys`",
    );
}

fn open_identity(
    config: &Config,
    running: Option<&Arc<Identity>>,
) -> Result<Option<Arc<Identity>>, Vec<Finding>> {
    let Some(tls) = &config.tls else {
        return Ok(None);
    };
    let identity = match running {
        None => tls::load(tls).map(Arc::new),
        Some(running) => renew_lastingly(config, tls, running),
    };
    identity
        .map(Some)
        .map_err(|findings| named_by(tls, findings))
}

/// What is in the files now, if that is no half of what is being written.
fn renew_lastingly(
    config: &Config,
    tls: &Tls,
    running: &Arc<Identity>,
) -> Result<Arc<Identity>, Vec<Finding>> {
    let public_name = config.listen.public_name.as_ref();
    let renew = || tls::renew(tls, public_name, running, SystemTime::now());
    let shorter = match renew()? {
        Renewal::Same => return Ok(Arc::clone(running)),
        Renewal::New(identity) => return Ok(Arc::from(identity)),
        Renewal::Shorter(identity) => identity,
    };
    std::thread::sleep(LOOK);
    match renew()? {
        Renewal::Same => Ok(Arc::clone(running)),
        Renewal::New(identity) => Ok(Arc::from(identity)),
        Renewal::Shorter(identity) if identity.is_like(&shorter) => Ok(Arc::from(identity)),
        Renewal::Shorter(_) => {
            let reason = "the certificate is being written";
            let finding = Finding::error(&*tls.certificate.value, reason);
            Err(vec![finding.remedy("reload again when it is in place")])
        }
    }
}

/// Adds where the configuration names the files that findings are about.
pub(super) fn named_by(tls: &Tls, findings: Vec<Finding>) -> Vec<Finding> {
    let files = [
        Some(&tls.private_key),
        Some(&tls.certificate),
        tls.client_ca.as_ref(),
    ];
    let named = |finding: Finding| {
        let mut files = files.into_iter().flatten();
        match files.find(|file| file.value == finding.place.file) {
            Some(file) => finding.named_at(&file.place),
            None => finding,
        }
    };
    findings.into_iter().map(named).collect()
}

/// Logs a finding that does not keep the server from running.
pub(super) fn log_finding(finding: &Finding) {
    let place = &finding.place;
    let named_at = finding.named_at.as_ref().map(tracing::field::display);
    let remedy = finding.remedy.as_deref();
    let reason = &finding.reason;
    match finding.severity {
        Severity::Error => tracing::error!(%place, named_at, remedy, "{reason}"),
        Severity::Warning => tracing::warn!(%place, named_at, remedy, "{reason}"),
        Severity::Note => tracing::info!(%place, "{reason}"),
    }
}

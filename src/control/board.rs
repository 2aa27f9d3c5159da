//! What the running daemon wants the operator to see, and `status` shows.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::brakes::timestamp;
use crate::finding::Finding;
use crate::sandbox::Confinement;
use crate::tls::CertificateFacts;
use crate::transport::activity::{Way, Ways};

/// The place where the daemon writes it. Locked for a moment only.
#[derive(Debug, Default)]
pub struct Board {
    news: Mutex<News>,
    /// What connections count.
    sent: OnceLock<Arc<Ways>>,
    confinement: OnceLock<Arc<Confinement>>,
}

/// What is there to be seen. Times are RFC 3339 in UTC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct News {
    /// The certificate in use; `None` without TLS.
    pub certificate: Option<Certificate>,
    /// The last reload, if it was refused.
    pub refused_reload: Option<Trouble>,
    /// How content was sent.
    #[serde(default)]
    pub sent: Sent,
    /// By what the process has confined itself; `None` if it was not to.
    #[serde(default)]
    pub confined: Option<String>,
}

/// How many bytes of content were sent in which way, since the start. Of
/// connections that go on, some of the last seconds may be missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// From this process's memory.
    pub memory: u64,
    /// From files that were read meanwhile.
    pub read: u64,
    /// By the kernel, in plaintext.
    pub sendfile: u64,
    /// By the kernel, which encrypted it.
    pub kernel_tls: u64,
}

impl From<&Ways> for Sent {
    fn from(ways: &Ways) -> Self {
        Self {
            memory: ways.get(Way::Memory),
            read: ways.get(Way::Read),
            sendfile: ways.get(Way::Sendfile),
            kernel_tls: ways.get(Way::KernelTls),
        }
    }
}

/// The certificate in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// The serial number in hexadecimal digits.
    pub serial: String,
    /// The names and addresses that clients may use.
    pub names: Vec<String>,
    /// Its expiry.
    pub expires: String,
    /// Why the files in place are not used, and since when.
    pub unfit: Option<Trouble>,
}

/// Something that is wrong, though the server goes on with what it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// Since when.
    pub since: String,
    /// Where: a file, and perhaps a line and a column.
    pub place: String,
    /// What is wrong there.
    pub reason: String,
    /// What repairs it.
    pub remedy: Option<String>,
    /// How many other things are wrong.
    pub others: usize,
}

impl Trouble {
    /// The first of these findings stands for all of them.
    fn now(findings: &[Finding]) -> Option<Self> {
        let first = findings.first()?;
        Some(Self {
            since: timestamp(SystemTime::now()),
            place: first.place.to_string(),
            reason: first.reason.clone(),
            remedy: first.remedy.clone(),
            others: findings.len() - 1,
        })
    }
}

impl Board {
    /// All that is there now.
    pub fn read(&self) -> News {
        News {
            sent: self
                .sent
                .get()
                .map(|it| Sent::from(&**it))
                .unwrap_or_default(),
            confined: self.confinement().map(|it| it.to_string()),
            ..self.lock().clone()
        }
    }

    /// Connections count here, for as long as the daemon runs.
    pub fn count(&self, sent: &Arc<Ways>) {
        // It has the same one already, if it has one.
        _ = self.sent.set(Arc::clone(sent));
    }

    /// The process has confined itself like this.
    pub fn confine(&self, confinement: Arc<Confinement>) {
        // It happens once.
        _ = self.confinement.set(confinement);
    }

    /// How the process has confined itself, if it was to.
    pub fn confinement(&self) -> Option<&Arc<Confinement>> {
        self.confinement.get()
    }

    /// This certificate is in use from now on, or none.
    pub fn certify(&self, facts: Option<&CertificateFacts>) {
        self.lock().certificate = facts.map(|facts| Certificate {
            serial: facts.serial.clone(),
            names: facts.names.clone(),
            expires: timestamp(facts.not_after),
            unfit: None,
        });
    }

    /// What is wrong with the certificate's files now; nothing, if there are no
    /// findings.
    pub fn judge_files(&self, findings: &[Finding]) {
        let mut news = self.lock();
        let Some(certificate) = &mut news.certificate else {
            return;
        };
        let before = certificate.unfit.take();
        certificate.unfit = Trouble::now(findings).map(|trouble| Trouble {
            since: before.map_or(trouble.since, |it| it.since),
            ..trouble
        });
    }

    /// What came of the last reload: nothing bad, if there are no findings.
    pub fn reloaded(&self, findings: &[Finding]) {
        self.lock().refused_reload = Trouble::now(findings);
    }

    fn lock(&self) -> MutexGuard<'_, News> {
        // Each change is a single assignment, so it is whole at any time.
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certified() -> Board {
        let board = Board::default();
        board.certify(Some(&CertificateFacts {
            serial: "01".into(),
            names: vec!["repo.example.com".into()],
            not_before: SystemTime::UNIX_EPOCH,
            not_after: SystemTime::UNIX_EPOCH,
            for_servers: true,
        }));
        board
    }

    #[test]
    fn files_are_unfit_since_they_first_were() {
        let board = certified();
        let unfit = || board.read().certificate.unwrap().unfit;
        assert_eq!(unfit(), None);
        board.judge_files(&[Finding::error("/key.pem", "half of it")]);
        // As if it had been a while ago.
        let long_ago = "2026-03-01T02:00:00Z";
        let mut news = board.lock();
        let trouble = news.certificate.as_mut().unwrap().unfit.as_mut().unwrap();
        trouble.since = long_ago.into();
        drop(news);
        board.judge_files(&[
            Finding::error("/key.pem", "no key"),
            Finding::error("/", ""),
        ]);
        let trouble = unfit().unwrap();
        assert_eq!((trouble.since.as_str(), trouble.others), (long_ago, 1));
        assert_eq!(trouble.reason, "no key");
        board.judge_files(&[]);
        assert_eq!(unfit(), None);
    }

    #[test]
    fn without_a_certificate_no_files_are_unfit() {
        let board = certified();
        board.certify(None);
        board.judge_files(&[Finding::error("/key.pem", "no key")]);
        assert_eq!(board.read(), News::default());
    }

    #[test]
    fn the_last_reload_counts() {
        let board = Board::default();
        board.reloaded(&[Finding::error("/x", "no").remedy("rm /x")]);
        let refused = board.read().refused_reload.unwrap();
        assert_eq!(
            (refused.place.as_str(), refused.remedy),
            ("/x", Some("rm /x".into()))
        );
        board.reloaded(&[]);
        assert_eq!(board.read().refused_reload, None);
    }
}

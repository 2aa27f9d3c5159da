//! The brake: `ostree-serve hold`, `release` and `status`, and the Unix socket by
//! which they reach the server.
//!
//! A client sends one [`Request`] as a line of JSON, and gets one [`Reply`] as
//! another; then the connection ends. What is done in between is
//! [`brakes`]'; who may ask is [`peer`]'s to say; [`text`] is what people see.

pub mod board;
pub mod brakes;
pub mod client;
pub mod peer;
pub mod server;
pub mod text;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use board::News;

use crate::config::{DEFAULT_FILE, Prefix};
use crate::finding::shell_word;
use crate::repo::status::{Hold, Obstacle, Status};
use crate::sandbox::probe;

/// What a request may have, in bytes, with its line feed.
pub const REQUEST_MAX: usize = 64 * 1024;

/// How a subcommand finds the socket. As text, it is what has to follow a command
/// for that: nothing, or options with a space before them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// By this configuration file (`--config`).
    Config(PathBuf),
    /// It is here (`--socket`).
    Socket(PathBuf),
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(file) if file == Path::new(DEFAULT_FILE) => Ok(()),
            Self::Config(file) => write!(f, " --config {}", shell_word(file)),
            Self::Socket(path) => write!(f, " --socket {}", shell_word(path)),
        }
    }
}

/// What is asked of the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// To publish nothing newer in a repository.
    Hold {
        /// Which one.
        prefix: Prefix,
        /// Why.
        reason: Reason,
    },
    /// To publish again.
    Release {
        /// Which repository.
        prefix: Prefix,
    },
    /// How everything stands.
    Status {
        /// One repository only.
        prefix: Option<Prefix>,
    },
    /// To try what is forbidden, inside.
    Sandbox {},
}

impl Request {
    /// Reads a request, without its line feed.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(line: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(line).map_err(|error| error.to_string())
    }
}

/// Why something is held, as a person wrote it: one line, not empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reason(String);

impl Reason {
    /// The longest, in characters.
    pub const MAX: usize = 500;
}

impl FromStr for Reason {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() {
            return Err("say why: whoever finds the hold has to decide whether it may go".into());
        }
        if text.chars().count() > Self::MAX {
            return Err(format!("a reason has at most {} characters", Self::MAX));
        }
        if let Some(c) = text.chars().find(|c| c.is_control()) {
            return Err(format!("a reason is one line of text, without {c:?}"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Reason {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Reason> for String {
    fn from(reason: Reason) -> Self {
        reason.0
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the server answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply {
    /// The hold counts from now on.
    Held(Held),
    /// There is no hold any more.
    Released(Released),
    /// How everything stands.
    Status(Report),
    /// What came of trying what is forbidden.
    Sandbox(probe::Report),
    /// Nothing was done.
    Refused(Refused),
}

/// What came of a hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The repository, held.
    pub repository: Repository,
    /// The hold that was there before.
    pub before: Option<Hold>,
    /// How long it lasts.
    pub lasting: Lasting,
    /// Where else the same directory is served, and not held.
    pub beside: Vec<Prefix>,
}

/// How long a hold lasts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lasting {
    /// The service manager keeps it over a restart.
    Restarts,
    /// It was given to the service manager, which does not say whether it keeps
    /// it.
    Perhaps,
    /// It ends with the process, for this reason.
    Process(String),
}

impl fmt::Display for Lasting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Restarts => f.write_str("over restarts"),
            Self::Perhaps => f.write_str("perhaps over restarts"),
            Self::Process(reason) => write!(f, "until the process ends: {reason}"),
        }
    }
}

/// What came of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Released {
    /// The repository, not held; `None` if none is served there, and only what
    /// the service manager kept for it is gone.
    pub repository: Option<Repository>,
    /// The hold that there was.
    pub before: Option<Hold>,
    /// Why the hold may come back with a restart.
    pub remains: Option<String>,
}

/// How everything stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The server's version.
    pub version: String,
    /// When it was started, in RFC 3339.
    pub started: String,
    /// How long ago that is, in seconds.
    pub uptime: u64,
    /// What the daemon has to say of itself.
    #[serde(flatten)]
    pub news: News,
    /// Holds that are kept for what is not served.
    pub obstacles: Vec<Unserved>,
    /// The repositories.
    pub repositories: Vec<Repository>,
}

/// A hold that is kept for a repository which is not served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unserved {
    /// Where it was served; `None` if that was too long to be kept.
    pub prefix: Option<Prefix>,
    /// What is wrong with that.
    #[serde(flatten)]
    pub obstacle: Obstacle,
}

/// How a repository stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repository {
    /// Where it is served.
    pub prefix: Prefix,
    /// How it stands.
    #[serde(flatten)]
    pub status: Status,
}

/// Why nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Why, as a phrase.
    pub reason: String,
    /// What to do, if anything.
    pub remedy: Option<String>,
}

impl Refused {
    pub(crate) fn new(reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            remedy: Some(remedy.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests() {
        let prefix = || "/repo".parse().unwrap();
        let hold = Request::Hold {
            prefix: prefix(),
            reason: "bad kernel".parse().unwrap(),
        };
        let cases = [
            (
                r#"{"hold":{"prefix":"/repo","reason":" bad kernel "}}"#,
                Some(hold),
            ),
            (
                r#"{"release":{"prefix":"/repo/"}}"#,
                Some(Request::Release { prefix: prefix() }),
            ),
            (r#"{"status":{}}"#, Some(Request::Status { prefix: None })),
            (
                r#"{"status":{"prefix":"/repo"}}"#,
                Some(Request::Status {
                    prefix: Some(prefix()),
                }),
            ),
            ("", None),
            ("null", None),
            (r#""status""#, None),
            (r#"{"status":{}} {}"#, None),
            (r#"{"status":{},"release":{"prefix":"/repo"}}"#, None),
            (r#"{"status":{"prefixes":"/repo"}}"#, None),
            (r#"{"hold":{"prefix":"/repo"}}"#, None),
            (r#"{"hold":{"prefix":"/repo","reason":""}}"#, None),
            (r#"{"hold":{"prefix":"/repo","reason":"a\nb"}}"#, None),
            (
                r#"{"hold":{"prefix":"/repo","reason":"a\u001b[2Jb"}}"#,
                None,
            ),
            (r#"{"hold":{"prefix":"repo","reason":"x"}}"#, None),
            (r#"{"release":{"prefix":"/a/../b"}}"#, None),
            (r#"{"release":{}}"#, None),
            (r#"{"sandbox":{}}"#, Some(Request::Sandbox {})),
            (r#"{"sandbox":{"x":1}}"#, None),
            (r#"{"reboot":{}}"#, None),
        ];
        for (line, expected) in cases {
            let parsed = Request::parse(line.as_bytes());
            assert_eq!(parsed.clone().ok(), expected, "{line} {parsed:?}");
        }
        assert!(Request::parse(b"{\"release\":{\"prefix\":\"/\xff\"}}").is_err());
    }

    #[test]
    fn commands_name_what_is_not_the_default() {
        let cases = [
            (Way::Config(DEFAULT_FILE.into()), ""),
            (Way::Config("/a b".into()), " --config '/a b'"),
            (Way::Socket("/run/s".into()), " --socket /run/s"),
        ];
        for (way, expected) in cases {
            assert_eq!(way.to_string(), expected);
        }
    }

    #[test]
    fn reasons_have_an_end() {
        let longest = "ü".repeat(Reason::MAX);
        assert!(longest.parse::<Reason>().is_ok());
        assert!(format!("{longest}x").parse::<Reason>().is_err());
    }

    proptest! {
        #[test]
        fn what_is_sent_is_what_arrives(reason in "\\PC{1,40}", prefix in "/[a-z ü\"]{1,9}") {
            let (Ok(reason), Ok(prefix)) = (reason.parse(), prefix.parse()) else {
                return Ok(());
            };
            let request = Request::Hold { prefix, reason };
            let line = serde_json::to_string(&request).unwrap();
            prop_assert!(!line.contains('\n'));
            prop_assert!(line.len() < REQUEST_MAX);
            prop_assert_eq!(Request::parse(line.as_bytes()), Ok(request));
        }
    }
}

//! The configuration as it is written: TOML in, findings or a [`Config`] out.
//!
//! Unknown keys are errors. Sizes and durations are texts with units. The
//! position of each value is kept, for findings about it.

mod sandbox;
mod values;

use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;
use toml::Spanned;

use self::sandbox::WrittenSandbox;
use self::values::{Count, HeaderSize, Seconds, Switch, WrittenCacheSize};

use super::{
    Address, Config, Limits, Mount, Notice, Placed, Prefix, Protocol, Publishing, RepoMount,
    Sandbox, Transfer, ZeroCopy,
};
use crate::finding::{Finding, Place};
use crate::resource::path::TOP_LEVEL_NAMES;

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default)]
    listen: Listen,
    tls: Option<Tls>,
    #[serde(default)]
    limits: WrittenLimits,
    #[serde(default)]
    transfer: WrittenTransfer,
    #[serde(default)]
    sandbox: WrittenSandbox,
    #[serde(default)]
    repo: Vec<WrittenRepo>,
    #[serde(default, rename = "static")]
    statics: Vec<WrittenMount>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Listen {
    https: Vec<Spanned<String>>,
    redirect: Vec<Spanned<String>>,
    http: Vec<Spanned<String>>,
    admin: Spanned<String>,
    control: Spanned<PathBuf>,
    public_name: Option<Spanned<String>>,
}

impl Default for Listen {
    fn default() -> Self {
        let defaulted = |text: &str| Spanned::new(0..0, text.to_owned());
        Self {
            https: vec![defaulted("[::]:8443")],
            redirect: vec![defaulted("[::]:8080")],
            http: Vec::new(),
            admin: defaulted("127.0.0.1:9443"),
            control: Spanned::new(0..0, super::DEFAULT_CONTROL.into()),
            public_name: None,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tls {
    certificate: Spanned<PathBuf>,
    /// A PEM file may hold both.
    private_key: Option<Spanned<PathBuf>>,
    #[serde(default = "both_protocols")]
    protocols: Spanned<Vec<Spanned<String>>>,
    client_ca: Option<Spanned<PathBuf>>,
}

fn both_protocols() -> Spanned<Vec<Spanned<String>>> {
    let names = [Protocol::Http2, Protocol::Http1].map(Protocol::name);
    Spanned::new(
        0..0,
        names.map(|name| Spanned::new(0..0, name.into())).into(),
    )
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct WrittenLimits {
    connections: Option<Count>,
    header_size: Option<HeaderSize>,
    handshake: Option<Seconds>,
    header: Option<Seconds>,
    idle: Option<Seconds>,
    stalled_transfer: Option<Seconds>,
    drain: Option<Seconds>,
}

impl WrittenLimits {
    fn or_default(self) -> Limits {
        let default = Limits::default();
        let seconds = |written: Option<Seconds>, default| written.map_or(default, |it| it.0);
        Limits {
            connections: self.connections.map_or(default.connections, |it| it.0),
            header_size: self.header_size.map_or(default.header_size, |it| it.0),
            handshake: seconds(self.handshake, default.handshake),
            header: seconds(self.header, default.header),
            idle: seconds(self.idle, default.idle),
            stalled_transfer: seconds(self.stalled_transfer, default.stalled_transfer),
            drain: seconds(self.drain, default.drain),
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct WrittenTransfer {
    zero_copy: Option<Switch>,
    cache: Option<WrittenCacheSize>,
}

impl WrittenTransfer {
    fn or_default(self) -> Transfer {
        let default = Transfer::default();
        Transfer {
            zero_copy: match self.zero_copy {
                None => default.zero_copy,
                Some(Switch::Automatic) => ZeroCopy::Automatic,
                Some(Switch::Off) => ZeroCopy::Off,
            },
            cache: self.cache.map_or(default.cache, |it| it.0),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenMount {
    prefix: Spanned<String>,
    path: Spanned<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRepo {
    prefix: Spanned<String>,
    path: Spanned<PathBuf>,
    coherent: Option<bool>,
    #[serde(default)]
    verify_keys: Vec<Spanned<PathBuf>>,
    hold_unsigned: Option<Seconds>,
    hold_incomplete: Option<Seconds>,
    grace: Option<Seconds>,
    notice: Option<WrittenNotice>,
    poll: Option<Seconds>,
}

#[derive(Deserialize)]
enum WrittenNotice {
    #[serde(rename = "auto")]
    Automatic,
    #[serde(rename = "poll")]
    Poll,
}

/// Reads the text, or says where it is no TOML or not ours.
pub(super) fn parse(text: &str, file: &Path) -> Result<File, Finding> {
    toml::from_str(text).map_err(|error| {
        let place = match error.span() {
            Some(span) => Place::in_text(file, text, span.start),
            None => file.into(),
        };
        match unknown_key(error.message()) {
            Some((key, known)) => unknown_key_finding(place, &key, &known),
            None => Finding::error(place, error.message().trim_end().replace('\n', " ")),
        }
    })
}

/// Takes apart serde's message about an unknown field: "unknown field `x`,
/// expected one of `a`, `b`" (`serde::de::Error::unknown_field`). It is the one
/// place where the known keys of each table can be had, and a test holds it.
fn unknown_key(message: &str) -> Option<(String, Vec<String>)> {
    let mut quoted = message
        .strip_prefix("unknown field ")?
        .split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned);
    Some((quoted.next()?, quoted.collect()))
}

fn unknown_key_finding(place: Place, key: &str, known: &[String]) -> Finding {
    let finding = Finding::error(place, format!("unknown key `{key}`"));
    let nearest = known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(key, name), name))
        .min();
    match nearest {
        Some((distance, name)) if distance <= name.len().div_ceil(2) => {
            finding.remedy(format!("did you mean `{name}`?"))
        }
        _ => finding.remedy(format!("the keys known here are: {}", known.join(", "))),
    }
}

/// The text that is judged, and the name of its file.
pub(super) struct Source<'a> {
    pub file: &'a Path,
    pub text: &'a str,
}

impl Source<'_> {
    /// From what was written to what it means.
    pub(super) fn judge(&self, written: File) -> Result<Config, Vec<Finding>> {
        let mut findings = Vec::new();
        let tls = written.tls.map(|tls| self.tls(tls, &mut findings));
        let listen = self.listen(written.listen, tls.is_some(), &mut findings);
        let repos = self.repos(written.repo, &mut findings);
        let statics = self.mounts(written.statics, &mut findings);
        self.judge_prefixes(&repos, &statics, &mut findings);
        let directories = written.sandbox.directories.iter();
        let directories = directories.map(|it| self.path(it)).collect();

        match listen {
            Some(listen) if findings.is_empty() => Ok(Config {
                file: self.file.to_owned(),
                listen,
                tls,
                limits: written.limits.or_default(),
                transfer: written.transfer.or_default(),
                sandbox: Sandbox {
                    directories,
                    ..written.sandbox.or_default()
                },
                repos: repos.into_iter().map(|(_, repo)| repo).collect(),
                statics: statics.into_iter().map(|it| it.mount).collect(),
            }),
            _ => Err(findings),
        }
    }

    /// The sockets; `None` only with a finding.
    fn listen(
        &self,
        written: Listen,
        has_certificate: bool,
        findings: &mut Vec<Finding>,
    ) -> Option<super::Listen> {
        let mut taken: Vec<Placed<Address>> = Vec::new();
        let mut address = |text: &Spanned<String>, findings: &mut Vec<Finding>| {
            let address = self.parsed::<Address>(text, findings)?;
            let address = match address {
                Address::Unix(path) => Address::Unix(self.absolute(&path)),
                tcp => tcp,
            };
            if let Some(other) = taken.iter().find(|it| it.value.overlaps(&address)) {
                let other = &other.value;
                let reason = format!("`{address}` is in use already, by `{other}` in this file");
                findings.push(Finding::error(self.place(text), reason).remedy(
                    "give each listener, `admin` included, an address and port of its own",
                ));
            }
            taken.push(Placed {
                value: address.clone(),
                place: self.place(text),
            });
            Some(address)
        };
        let mut all = |texts: &[Spanned<String>], findings: &mut Vec<Finding>| -> Vec<Address> {
            texts
                .iter()
                .filter_map(|text| address(text, findings))
                .collect()
        };
        let https = all(&written.https, findings);
        let redirect = all(&written.redirect, findings);
        let http = all(&written.http, findings);
        let admin = address(&written.admin, findings);
        let public_name = written.public_name.and_then(|name| {
            let parsed = name.as_ref().parse().map_err(|error| {
                let reason = format!("public_name `{}` {error}", name.as_ref());
                findings.push(Finding::error(self.place(&name), reason));
            });
            parsed.ok()
        });
        let listen = super::Listen {
            https,
            redirect,
            http,
            admin: admin?,
            control: self.path(&written.control),
            public_name,
            places: taken,
        };
        self.judge_listeners(&listen, has_certificate, findings);
        Some(listen)
    }

    fn judge_listeners(
        &self,
        listen: &super::Listen,
        has_certificate: bool,
        findings: &mut Vec<Finding>,
    ) {
        if listen.https.is_empty() && listen.http.is_empty() {
            findings.push(Finding::error(
                self.file,
                "nothing to listen at: both `listen.https` and `listen.http` are empty",
            ));
        }
        if !has_certificate && !listen.https.is_empty() {
            let finding = Finding::error(
                self.file,
                "a certificate is missing, and `listen.https` needs one",
            );
            findings.push(finding.remedy(
                "add `[tls]` with `certificate` and `private_key`, or set `https = []` and `redirect = []`",
            ));
        }
        // A redirect leads to an HTTPS port, which must be known.
        let has_port = |address: &Address| matches!(address, Address::Tcp(_));
        let known = listen.https.iter().any(has_port) || listen.public_name.is_some();
        if !listen.redirect.is_empty() && !known {
            let finding =
                Finding::error(self.file, "`listen.redirect` has no HTTPS port to lead to");
            findings.push(finding.remedy(
                "add a port to `listen.https`, set `listen.public_name`, or set `redirect = []`",
            ));
        }
    }

    fn tls(&self, written: Tls, findings: &mut Vec<Finding>) -> super::Tls {
        let certificate = self.path(&written.certificate);
        let private_key = match &written.private_key {
            Some(key) => self.path(key),
            None => certificate.clone(),
        };
        if written.protocols.as_ref().is_empty() {
            findings.push(Finding::error(
                self.place(&written.protocols),
                "`protocols` is empty; known are \"h2\" and \"http/1.1\"",
            ));
        }
        let mut protocols = Vec::new();
        for name in written.protocols.as_ref() {
            let known = [Protocol::Http2, Protocol::Http1];
            match known.into_iter().find(|it| it.name() == name.as_ref()) {
                Some(protocol) if !protocols.contains(&protocol) => protocols.push(protocol),
                Some(_) => findings.push(Finding::error(
                    self.place(name),
                    format!("protocol `{}` is named twice", name.as_ref()),
                )),
                None => findings.push(Finding::error(
                    self.place(name),
                    format!(
                        "unknown protocol `{}`; known are \"h2\" and \"http/1.1\"",
                        name.as_ref()
                    ),
                )),
            }
        }
        super::Tls {
            certificate,
            private_key,
            protocols,
            client_ca: written.client_ca.map(|path| self.path(&path)),
        }
    }

    fn mounts(&self, written: Vec<WrittenMount>, findings: &mut Vec<Finding>) -> Vec<PlacedMount> {
        let mount = |written: WrittenMount| {
            Some(PlacedMount {
                place: self.place(&written.prefix),
                mount: Mount {
                    prefix: self.parsed::<Prefix>(&written.prefix, findings)?,
                    path: self.path(&written.path),
                },
            })
        };
        written.into_iter().filter_map(mount).collect()
    }

    fn repos(
        &self,
        written: Vec<WrittenRepo>,
        findings: &mut Vec<Finding>,
    ) -> Vec<(Place, RepoMount)> {
        let default = Publishing::default();
        let seconds = |written: Option<Seconds>, default| written.map_or(default, |it| it.0);
        let repo = |written: WrittenRepo| {
            let mount = Mount {
                prefix: self.parsed::<Prefix>(&written.prefix, findings)?,
                path: self.path(&written.path),
            };
            let publishing = Publishing {
                coherent: written.coherent.unwrap_or(default.coherent),
                verify_keys: written.verify_keys.iter().map(|it| self.path(it)).collect(),
                hold_unsigned: seconds(written.hold_unsigned, default.hold_unsigned),
                hold_incomplete: seconds(written.hold_incomplete, default.hold_incomplete),
                grace: seconds(written.grace, default.grace),
                notice: match written.notice {
                    None => default.notice,
                    Some(WrittenNotice::Automatic) => Notice::Automatic,
                    Some(WrittenNotice::Poll) => Notice::Poll,
                },
                poll: seconds(written.poll, default.poll),
            };
            let place = self.place(&written.prefix);
            Some((place, RepoMount { mount, publishing }))
        };
        written.into_iter().filter_map(repo).collect()
    }

    /// Longest-prefix matching makes nested prefixes possible; refused is what
    /// would hide something: the same prefix twice, a repository inside another
    /// one, or a directory in the place of one of a repository's own names.
    fn judge_prefixes(
        &self,
        repos: &[(Place, RepoMount)],
        statics: &[PlacedMount],
        findings: &mut Vec<Finding>,
    ) {
        let repos: Vec<_> = repos.iter().map(|(place, it)| (place, &it.mount)).collect();
        let statics = statics.iter().map(|it| (&it.place, &it.mount));
        let all: Vec<_> = repos.iter().copied().chain(statics).collect();
        if all.is_empty() {
            findings.push(
                Finding::error(
                    self.file,
                    "nothing to serve: there is no `[[repo]]` and no `[[static]]`",
                )
                .remedy("add `[[repo]]` with `prefix` and `path`"),
            );
        }
        for (number, (place, later)) in all.iter().enumerate() {
            if all[..number]
                .iter()
                .any(|(_, it)| it.prefix == later.prefix)
            {
                let reason = format!("prefix `{}` is in use already", later.prefix);
                findings.push(Finding::error((*place).clone(), reason));
            }
        }
        for (_, outer) in &repos {
            for (number, (place, inner)) in all.iter().enumerate() {
                let rest = match outer.prefix.contains(&inner.prefix) {
                    None | Some("") => continue,
                    Some(rest) => rest,
                };
                let is_repo = number < repos.len();
                let first = rest.split('/').next().unwrap_or(rest);
                if is_repo || TOP_LEVEL_NAMES.contains(&first) {
                    let reason = format!(
                        "prefix `{}` overlaps the repository at `{}`",
                        inner.prefix, outer.prefix
                    );
                    findings.push(
                        Finding::error((*place).clone(), reason)
                            .remedy("move one of them to a prefix beside the other"),
                    );
                }
            }
        }
    }

    fn parsed<T: FromStr<Err = String>>(
        &self,
        text: &Spanned<String>,
        findings: &mut Vec<Finding>,
    ) -> Option<T> {
        text.as_ref()
            .parse()
            .map_err(|reason: String| findings.push(Finding::error(self.place(text), reason)))
            .ok()
    }

    fn path(&self, written: &Spanned<PathBuf>) -> Placed<PathBuf> {
        Placed {
            value: self.absolute(written.as_ref()),
            place: self.place(written),
        }
    }

    /// Relative paths are relative to the file that they stand in.
    fn absolute(&self, path: &Path) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("")).join(path)
    }

    fn place<T>(&self, written: &Spanned<T>) -> Place {
        match written.span() {
            // A default was not written anywhere.
            span if span.is_empty() => self.file.into(),
            span => Place::in_text(self.file, self.text, span.start),
        }
    }
}

/// A mount, and where its prefix was written.
struct PlacedMount {
    place: Place,
    mount: Mount,
}

/// The keys of all tables, as serde knows them.
#[cfg(test)]
pub(super) fn known_keys() -> Vec<String> {
    let probes = [
        "",
        "[listen]\n",
        "[tls]\n",
        "[limits]\n",
        "[transfer]\n",
        "[sandbox]\n",
        "[[repo]]\n",
        "[[static]]\n",
    ];
    let tables = [
        "listen", "tls", "limits", "transfer", "sandbox", "repo", "static",
    ];
    probes
        .iter()
        .filter_map(|table| toml::from_str::<File>(&format!("{table}zzz = 1\n")).err())
        .filter_map(|error| unknown_key(error.message()))
        .flat_map(|(_, known)| known)
        .filter(|key| !tables.contains(&key.as_str()))
        .collect()
}

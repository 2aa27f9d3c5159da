//! The file `config` of a repository: a GLib key file.
//!
//! It may hold passwords, proxies and the names of keys, so clients never get
//! the file. They get [`RepoConfig::render`]: the four keys that they read.

use std::fmt::Write;

/// The part of a repository's settings that clients read
/// (client-contract 1.3; `ostree-repo-pull.c`, `ostree-repo.c`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepoConfig {
    /// `core.repo_version`; today's is `1`.
    pub version: Option<String>,
    /// `core.mode`.
    pub mode: Option<String>,
    /// `core.indexed-deltas`: whether `delta-indexes/` is worth asking for.
    pub indexed_deltas: Option<bool>,
    /// `core.tombstone-commits`: whether deleted commits leave a mark.
    pub tombstone_commits: Option<bool>,
}

impl RepoConfig {
    /// Reads the file of a repository that can be served.
    ///
    /// # Errors
    /// Why it is none.
    pub fn servable(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
        let config = Self::parse(text)?;
        config.check_servable()?;
        Ok(config)
    }

    /// Reads the keys of the group `[core]`; of a key that is there twice, the
    /// later one counts (`g_key_file_load_from_data`).
    ///
    /// # Errors
    /// What is wrong with which line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut config = Self::default();
        let mut in_core = false;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_matches([' ', '\t', '\r']);
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(group) = line.strip_prefix('[') {
                in_core = group.strip_suffix(']') == Some("core");
                continue;
            }
            if !in_core {
                continue;
            }
            let at_line = |reason| format!("line {}: {reason}", number + 1);
            let (key, value) = line
                .split_once('=')
                .ok_or_else(|| at_line("no key and value".into()))?;
            config
                .set(key.trim_end(), value.trim_start())
                .map_err(at_line)?;
        }
        Ok(config)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "repo_version" => self.version = Some(value.to_owned()),
            "mode" => self.mode = Some(value.to_owned()),
            "indexed-deltas" => self.indexed_deltas = Some(boolean(key, value)?),
            "tombstone-commits" => self.tombstone_commits = Some(boolean(key, value)?),
            _ => {}
        }
        Ok(())
    }

    /// Whether it is a repository that can be served: mode `archive`, which
    /// older versions call `archive-z2`, in version 1.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn check_servable(&self) -> Result<(), String> {
        match self.mode.as_deref() {
            Some("archive" | "archive-z2") => {}
            Some(mode) => return Err(format!("the repository's mode is `{mode}`, not `archive`")),
            None => return Err("the repository has no mode, not `archive`".into()),
        }
        match self.version.as_deref() {
            Some("1") => Ok(()),
            Some(version) => Err(format!(
                "repository version `{version}` is unknown; known is 1"
            )),
            None => Err("there is no `repo_version` in `[core]`".into()),
        }
    }

    /// The text that clients get.
    pub fn render(&self) -> String {
        let mut text = "[core]\n".to_owned();
        let boolean = |value: Option<bool>| value.map(|value| value.to_string());
        let lines = [
            ("repo_version", self.version.clone()),
            ("mode", self.mode.clone()),
            ("indexed-deltas", boolean(self.indexed_deltas)),
            ("tombstone-commits", boolean(self.tombstone_commits)),
        ];
        for (key, value) in lines {
            if let Some(value) = value {
                // Writing to a String cannot fail.
                _ = writeln!(text, "{key}={value}");
            }
        }
        text
    }
}

/// `g_key_file_parse_value_as_boolean`.
fn boolean(key: &str, value: &str) -> Result<bool, String> {
    match value.trim_end() {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        other => Err(format!("`{key}` is neither true nor false: `{other}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ostree_writes() {
        let text = "[core]\nrepo_version=1\nmode=archive-z2\nindexed-deltas=true\n\n[archive]\nzlib-level=9\n";
        let config = RepoConfig::parse(text).unwrap();
        assert_eq!(config.check_servable(), Ok(()));
        assert_eq!(
            config.render(),
            "[core]\nrepo_version=1\nmode=archive-z2\nindexed-deltas=true\n"
        );
    }

    #[test]
    fn secrets_stay_inside() {
        let text = "[remote \"x\"]\nurl=https://user:password@host/\nmode=bare\n\
                    [core]\nmode = archive\nrepo_version=1\n# tombstone-commits=maybe\ntombstone-commits=1\n\
                    proxy=http://secret\n[core]\nmode=archive-z2\n";
        let rendered = RepoConfig::parse(text).unwrap().render();
        assert_eq!(
            rendered,
            "[core]\nrepo_version=1\nmode=archive-z2\ntombstone-commits=true\n"
        );
    }

    #[test]
    fn what_cannot_be_served() {
        let cases = [
            ("[core]\nrepo_version=1\nmode=bare\n", "mode is `bare`"),
            (
                "[core]\nrepo_version=1\nmode=bare-user-only\n",
                "`bare-user-only`",
            ),
            ("[core]\nrepo_version=1\n", "no mode"),
            ("", "no mode"),
            ("[other]\nmode=archive\n", "no mode"),
            ("[core]\nmode=archive\n", "repo_version"),
            ("[core]\nmode=archive\nrepo_version=2\n", "version `2`"),
            ("[core]\nmode\n", "line 2"),
            ("[core]\nindexed-deltas=perhaps\n", "`indexed-deltas`"),
        ];
        for (text, reason) in cases {
            let error = RepoConfig::parse(text)
                .and_then(|config| config.check_servable())
                .expect_err(text);
            assert!(error.contains(reason), "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn rendering_keeps_the_meaning(text in "(\\[core\\]\n)?([a-z_-]{0,4}(mode|repo_version|indexed-deltas)[ ]?=[ ]?(true|archive|1|.{0,5})\n){0,4}") {
            if let Ok(config) = RepoConfig::parse(&text) {
                let again = RepoConfig::parse(&config.render()).unwrap();
                proptest::prop_assert_eq!(again.render(), config.render());
            }
        }
    }
}

//! The part of a URL path that chooses a repository or directory.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A URL path prefix of whole segments, such as `/repo/flatpak`, or `/`.
///
/// It is compared with decoded paths, so it is written decoded as well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix(
    /// Without the slash at the end: `/` is kept as the empty string.
    String,
);

impl Prefix {
    /// What follows the prefix and its slash in `path`, a decoded request path
    /// with its leading slash. `None` if `path` is not below the prefix.
    ///
    /// ```
    /// # use ostree_serve::config::Prefix;
    /// let prefix: Prefix = "/repo/flatpak".parse().unwrap();
    /// assert_eq!(prefix.strip("/repo/flatpak/summary"), Some("summary"));
    /// assert_eq!(prefix.strip("/repo/flatpak"), Some(""));
    /// assert_eq!(prefix.strip("/repo/flatpak2/summary"), None);
    /// ```
    pub fn strip<'p>(&self, path: &'p str) -> Option<&'p str> {
        match path.strip_prefix(self.0.as_str())? {
            "" => Some(""),
            rest => rest.strip_prefix('/'),
        }
    }

    /// Whether `inner` is this prefix or below it; if so, what follows.
    pub fn contains<'p>(&self, inner: &'p Self) -> Option<&'p str> {
        self.strip(&inner.0)
    }

    /// Its length, by which the most specific prefix is the longest.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it is `/`.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(segments) = text.strip_prefix('/') else {
            return Err(format!("prefix `{text}` must begin with `/`"));
        };
        let segments = segments.strip_suffix('/').unwrap_or(segments);
        if segments.is_empty() {
            return match text {
                "/" => Ok(Self(String::new())),
                _ => Err(format!("prefix `{text}` has an empty segment")),
            };
        }
        for segment in segments.split('/') {
            if matches!(segment, "" | "." | "..") {
                return Err(format!("prefix `{text}` has an empty or dotted segment"));
            }
            let odd = |c: char| c.is_control() || "%?#\\".contains(c);
            if let Some(c) = segment.chars().find(|&c| odd(c)) {
                return Err(format!("prefix `{text}` must not contain {c:?}"));
            }
        }
        Ok(Self(format!("/{segments}")))
    }
}

impl TryFrom<String> for Prefix {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> Self {
        prefix.to_string()
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "/" } else { &self.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        let cases = [
            ("/", Some("/")),
            ("/repo", Some("/repo")),
            ("/repo/", Some("/repo")),
            ("/a/b/c", Some("/a/b/c")),
            ("/prüfung/x y", Some("/prüfung/x y")),
            ("", None),
            ("repo", None),
            ("//", None),
            ("/a//b", None),
            ("/a//", None),
            ("/./a", None),
            ("/a/..", None),
            ("/a%20b", None),
            ("/a?b", None),
            ("/a#b", None),
            ("/a\nb", None),
        ];
        for (text, expected) in cases {
            let parsed = text.parse::<Prefix>().ok().map(|prefix| prefix.to_string());
            assert_eq!(parsed.as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn matching_is_by_whole_segments() {
        let cases = [
            ("/", "/summary", Some("summary")),
            ("/", "/", Some("")),
            ("/a", "/a/summary", Some("summary")),
            ("/a", "/a/", Some("")),
            ("/a", "/a", Some("")),
            ("/a", "/ab", None),
            ("/a", "/a//summary", Some("/summary")),
            ("/a", "/", None),
            ("/a", "a/summary", None),
        ];
        for (prefix, path, expected) in cases {
            let prefix: Prefix = prefix.parse().unwrap();
            assert_eq!(prefix.strip(path), expected, "{prefix} {path}");
        }
    }
}

//! A directory of plain files beside the repositories: `.flatpakrepo` and
//! `.flatpakref` files, public keys, a CA certificate, a page for people.
//!
//! Served are regular files. There are no listings; a path that ends in a slash
//! is answered with `index.html`. Names that begin with a dot do not exist.

use std::path::Path;
use std::sync::Arc;

use crate::files::{self, Cause, Content, Digests, Directory, Links, Unreadable};
use crate::finding::Finding;
use crate::resource::Checksum;

/// A directory that is being served.
#[derive(Debug)]
pub struct Statics {
    directory: Arc<Directory>,
    digests: Digests,
}

/// A file that was found.
#[derive(Debug)]
pub struct StaticFile {
    /// The bytes.
    pub content: Content,
    /// Their SHA-256.
    pub digest: Checksum,
    /// The media type that its name suggests.
    pub media_type: &'static str,
}

impl Statics {
    /// Opens the directory `path`.
    ///
    /// # Errors
    /// Why it cannot be served, and what to do.
    pub fn open(path: &Path) -> Result<Self, Finding> {
        match Directory::open(path) {
            Ok(directory) => Ok(Self {
                directory: Arc::new(directory),
                digests: Digests::new(),
            }),
            Err(error) => Err(Finding::error(
                path,
                format!("the directory cannot be opened: {}", error.cause),
            )
            .remedy(error.remedy())),
        }
    }

    /// The directory that everything is opened beneath.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Finds a file by its decoded path, relative to the prefix; `None` if
    /// there is none.
    ///
    /// # Errors
    /// Why a file that is there cannot be served.
    pub async fn lookup(&self, path: &str) -> Result<Option<StaticFile>, Unreadable> {
        let Some(name) = file_name(path) else {
            return Ok(None);
        };
        let file = match files::open(&self.directory, &name, Links::Refused).await {
            // A directory has no content of its own, and a FIFO never had any.
            Err(Unreadable {
                cause: Cause::NotRegular(_),
                ..
            }) => return Ok(None),
            result => result?,
        };
        let Some(file) = file else { return Ok(None) };
        let content = Content::of(file, self.directory.path(), &name).await?;
        Ok(Some(StaticFile {
            digest: self.digests.of_content(&content).await?,
            content,
            media_type: media_type(&name),
        }))
    }
}

/// The name of the file for a path: no empty segments, none with a dot in
/// front, nothing that some system would take for a separator or a terminal or
/// log for an order.
fn file_name(path: &str) -> Option<String> {
    let mut name = path.to_owned();
    if name.is_empty() || name.ends_with('/') {
        name.push_str("index.html");
    }
    let is_plain = |segment: &str| {
        !segment.is_empty()
            && !segment.starts_with('.')
            && !segment.contains(|c: char| c == '\\' || c.is_control())
    };
    name.split('/').all(is_plain).then_some(name)
}

/// The media type for a file name. Flatpak's own types are registered by its
/// desktop files, and unknown to the general list.
fn media_type(name: &str) -> &'static str {
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    match extension {
        "flatpakrepo" => "application/vnd.flatpak.repo",
        "flatpakref" => "application/vnd.flatpak.ref",
        "html" => "text/html; charset=utf-8",
        "txt" => "text/plain; charset=utf-8",
        _ => mime_guess::from_ext(extension)
            .first_raw()
            .unwrap_or("application/octet-stream"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let cases = [
            ("a.flatpakrepo", Some("a.flatpakrepo")),
            ("a/b/c.txt", Some("a/b/c.txt")),
            ("", Some("index.html")),
            ("a/", Some("a/index.html")),
            ("a b+ü", Some("a b+ü")),
            ("a..b", Some("a..b")),
            (".htaccess", None),
            ("a/.git/config", None),
            ("..", None),
            ("../etc/passwd", None),
            ("a/../b", None),
            ("a//b", None),
            ("/a", None),
            ("/", None),
            ("a\\b", None),
            ("a\nb", None),
            ("a\u{1b}b", None),
        ];
        for (path, expected) in cases {
            assert_eq!(file_name(path).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn media_types() {
        let cases = [
            ("x.flatpakrepo", "application/vnd.flatpak.repo"),
            ("x.flatpakref", "application/vnd.flatpak.ref"),
            ("index.html", "text/html; charset=utf-8"),
            ("logo.png", "image/png"),
            ("key.gpg", "application/octet-stream"),
            ("README", "application/octet-stream"),
        ];
        for (name, expected) in cases {
            assert_eq!(media_type(name), expected, "{name}");
        }
    }
}

//! The control socket, found in a configuration file that may have faults: in an
//! emergency nobody is to repair the file before the brake works.

use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::DEFAULT_CONTROL;
use crate::finding::{Finding, Place};

/// Where the control socket is, as far as a configuration file tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlSocket {
    /// Its path.
    pub path: PathBuf,
    /// Whether the file names it; if not, it is the default.
    pub named: bool,
    /// Why that may be wrong.
    pub doubt: Option<Finding>,
}

impl ControlSocket {
    /// Reads `listen.control` of a file, and nothing else.
    pub fn of(file: &Path) -> Self {
        match std::fs::read_to_string(file) {
            Ok(text) => Self::written_in(&text, file),
            Err(error) => {
                let finding = Finding::warning(file, format!("cannot be read: {error}"));
                Self::default_with(Some(finding))
            }
        }
    }

    /// The same for the text of a file, which paths in it are relative to.
    pub fn written_in(text: &str, file: &Path) -> Self {
        // What stands before and after a fault is read all the same.
        let (table, errors) = DeTable::parse_recoverable(text);
        let doubt = errors.first().map(|error| {
            let place = match error.span() {
                Some(span) => Place::in_text(file, text, span.start),
                None => file.into(),
            };
            Finding::warning(place, error.message().trim_end().replace('\n', " "))
        });
        let control = table.get_ref().get("listen").and_then(|listen| {
            let listen = listen.get_ref().as_table()?;
            listen.get("control")
        });
        match control.map(|it| it.get_ref().as_str()) {
            Some(Some(path)) => Self {
                path: file.parent().unwrap_or(Path::new("")).join(path),
                named: true,
                doubt,
            },
            Some(None) => {
                let doubt = doubt.unwrap_or_else(|| {
                    Finding::warning(file, "`listen.control` is not a path in quotation marks")
                });
                Self::default_with(Some(doubt))
            }
            None => Self::default_with(doubt),
        }
    }

    fn default_with(doubt: Option<Finding>) -> Self {
        Self {
            path: DEFAULT_CONTROL.into(),
            named: false,
            doubt,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_elsewhere_does_not_hide_the_socket() {
        const DEFAULT: (&str, bool) = (DEFAULT_CONTROL, false);
        let cases = [
            ("", DEFAULT, None),
            ("[listen]\ncontrol = \"/a/b\"", ("/a/b", true), None),
            ("[listen]\ncontrol = \"b\"", ("/etc/x/b", true), None),
            (
                // Nothing but this key is judged.
                "[listen]\nhttp = 3\ncontrol = \"/a/b\"\n[[repo]]\nprefx = \"/\"",
                ("/a/b", true),
                None,
            ),
            (
                "[listen]\ncontrol = \"/a/b\"\n[tls]\nkey = key.pem\n",
                ("/a/b", true),
                Some(":4:"),
            ),
            (
                "[tls\nkey = 1\n[listen]\ncontrol = \"/a/b\"\n",
                ("/a/b", true),
                Some(":1:"),
            ),
            ("[listen]\ncontrol = 3", DEFAULT, Some("`listen.control`")),
            ("listen = 3", DEFAULT, None),
            ("[listen", DEFAULT, Some(":1:")),
        ];
        for (text, (path, named), doubt) in cases {
            let found = ControlSocket::written_in(text, Path::new("/etc/x/serve.toml"));
            let said = found.doubt.as_ref().map(ToString::to_string);
            assert_eq!(
                (found.path.as_path(), found.named),
                (Path::new(path), named),
                "{text}"
            );
            assert_eq!(said.is_some(), doubt.is_some(), "{text}: {said:?}");
            let (said, doubt) = (said.unwrap_or_default(), doubt.unwrap_or_default());
            assert!(said.contains(doubt), "{text}: {said}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_leaves_the_default() {
        let found = ControlSocket::of(Path::new("/nowhere/serve.toml"));
        assert_eq!(
            (found.path.as_path(), found.named),
            (Path::new(DEFAULT_CONTROL), false)
        );
        assert!(
            found
                .doubt
                .is_some_and(|it| it.reason.starts_with("cannot be read: "))
        );
    }
}

//! What is wrong with what the operator wrote or installed: where, why, and
//! which command repairs it. Start-up and `check` report the same findings.

use std::fmt;
use std::path::{Path, PathBuf};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether the server can work all the same.
    pub severity: Severity,
    /// Where it is wrong.
    pub place: Place,
    /// Where the configuration names it, if it is wrong somewhere else.
    pub named_at: Option<Box<Place>>,
    /// What is wrong, as a phrase without a full stop.
    pub reason: String,
    /// What to do: a command if there is one, else a sentence.
    pub remedy: Option<String>,
}

/// Whether the server can work all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing is wrong; it is good to know.
    Note,
    /// It can, but clients or the operator will be surprised.
    Warning,
    /// It refuses to start, or clients will fail.
    Error,
}

impl Finding {
    /// A finding without which the server could start.
    pub fn error(place: impl Into<Place>, reason: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            place: place.into(),
            named_at: None,
            reason: reason.into(),
            remedy: None,
        }
    }

    /// A finding with which the server can work.
    pub fn warning(place: impl Into<Place>, reason: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(place, reason)
        }
    }

    /// Something that is good to know.
    pub fn note(place: impl Into<Place>, text: impl Into<String>) -> Self {
        Self {
            severity: Severity::Note,
            ..Self::error(place, text)
        }
    }

    /// The same, graver than a note and no reason to refuse anything.
    pub fn as_warning(&self) -> Self {
        Self {
            severity: Severity::Warning,
            ..self.clone()
        }
    }

    /// The same with advice.
    pub fn remedy(self, remedy: impl Into<String>) -> Self {
        Self {
            remedy: Some(remedy.into()),
            ..self
        }
    }

    /// The same, with the place where the configuration names what is wrong.
    pub fn named_at(self, place: &Place) -> Self {
        Self {
            named_at: (self.place != *place).then(|| Box::new(place.clone())),
            ..self
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(f, "{}: {severity}: {}", self.place, self.reason)?;
        if let Some(place) = &self.named_at {
            write!(f, "\n    named at: {place}")?;
        }
        match &self.remedy {
            Some(remedy) => write!(f, "\n    fix: {remedy}"),
            None => Ok(()),
        }
    }
}

/// A file, and where in it if that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file or directory.
    pub file: PathBuf,
    /// Line and column, both counted from one; the column in characters.
    pub position: Option<(usize, usize)>,
}

impl Place {
    /// The place of the byte `offset` of `text`, which is what `file` holds.
    pub fn in_text(file: &Path, text: &str, offset: usize) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = before.bytes().filter(|&byte| byte == b'\n').count() + 1;
        let column = before[line_start..].chars().count() + 1;
        Self {
            file: file.to_owned(),
            position: Some((line, column)),
        }
    }
}

impl<P: Into<PathBuf>> From<P> for Place {
    fn from(file: P) -> Self {
        Self {
            file: file.into(),
            position: None,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        match self.position {
            Some((line, column)) => write!(f, ":{line}:{column}"),
            None => Ok(()),
        }
    }
}

/// `text` as one word of a POSIX shell, for the commands that remedies name.
pub fn shell_word(text: &Path) -> String {
    let text = text.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@%,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_as_editors_count() {
        let text = "a\nbü = 1\n";
        let cases = [
            (0, (1, 1)),
            (1, (1, 2)),
            (2, (2, 1)),
            (5, (2, 3)),
            (99, (3, 1)),
        ];
        for (offset, position) in cases {
            let place = Place::in_text(Path::new("f"), text, offset);
            assert_eq!(place.position, Some(position), "{offset}");
        }
    }

    #[test]
    fn a_finding_reads_like_a_compiler_message() {
        let finding = Finding::error(Place::in_text(Path::new("/etc/x"), "abc", 1), "no")
            .remedy("touch /etc/x");
        assert_eq!(
            finding.to_string(),
            "/etc/x:1:2: error: no\n    fix: touch /etc/x"
        );
        let elsewhere = Finding::error(Path::new("/srv/r"), "no").named_at(&Place::in_text(
            Path::new("/etc/x"),
            "abc",
            1,
        ));
        assert_eq!(
            elsewhere.to_string(),
            "/srv/r: error: no\n    named at: /etc/x:1:2"
        );
    }

    #[test]
    fn words_survive_the_shell() {
        let cases = [
            ("/a/b-c.d", "/a/b-c.d"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            ("", "''"),
        ];
        for (path, word) in cases {
            assert_eq!(shell_word(Path::new(path)), word);
        }
    }
}

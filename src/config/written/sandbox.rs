//! `[sandbox]` as it is written.

use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use crate::config::{Confine, Sandbox};

/// The table.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WrittenSandbox {
    mode: Option<WrittenMode>,
    user: Option<String>,
    pub(super) directories: Vec<Spanned<PathBuf>>,
}

#[derive(Deserialize)]
enum WrittenMode {
    #[serde(rename = "auto")]
    Automatic,
    #[serde(rename = "require")]
    Required,
    #[serde(rename = "off")]
    Off,
}

impl WrittenSandbox {
    /// With the defaults, but for the directories.
    pub(super) fn or_default(self) -> Sandbox {
        let default = Sandbox::default();
        Sandbox {
            mode: match self.mode {
                None => default.mode,
                Some(WrittenMode::Automatic) => Confine::Automatic,
                Some(WrittenMode::Required) => Confine::Required,
                Some(WrittenMode::Off) => Confine::Off,
            },
            user: self.user.unwrap_or(default.user),
            directories: Vec::new(),
        }
    }
}

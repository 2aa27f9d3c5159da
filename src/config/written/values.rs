//! Values that are written as texts, or are bounded.

use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::config::CacheSize;

/// A number of connections.
pub(super) struct Count(pub(super) usize);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u32::deserialize(deserializer)? {
            0 => Err(D::Error::custom("must be at least 1")),
            // What a semaphore can count is far more than a machine can serve.
            count => Ok(Self(count as usize)),
        }
    }
}

/// A duration such as `"30s"` or `"1m 30s"`.
pub(super) struct Seconds(pub(super) Duration);

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const LONGEST: Duration = Duration::from_secs(24 * 3600);
        let text = String::deserialize(deserializer)?;
        let duration = humantime::parse_duration(&text).map_err(|error| {
            D::Error::custom(format!(
                "`{text}` is no duration ({error}); write it like \"30s\" or \"5m\""
            ))
        })?;
        if duration < Duration::from_millis(100) || duration > LONGEST {
            return Err(D::Error::custom(format!(
                "`{text}` is out of range; from \"100ms\" to \"24h\" is possible"
            )));
        }
        Ok(Self(duration))
    }
}

/// The size of a request's header, such as `"32KiB"`.
pub(super) struct HeaderSize(pub(super) usize);

impl<'de> Deserialize<'de> for HeaderSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let size = ByteSize::from_str(&text).map_err(|_| {
            D::Error::custom(format!("`{text}` is no size; write it like \"32KiB\""))
        })?;
        // hyper needs 8 KiB to work with; a client needs no megabyte.
        match usize::try_from(size.as_u64()) {
            Ok(size @ 8192..=1_048_576) => Ok(Self(size)),
            _ => Err(D::Error::custom(format!(
                "`{text}` is out of range; from \"8KiB\" to \"1MiB\" is possible"
            ))),
        }
    }
}

/// How much memory a cache may take, such as `"64MiB"`; `"0B"` for none.
pub(super) struct WrittenCacheSize(pub(super) CacheSize);

impl<'de> Deserialize<'de> for WrittenCacheSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const LEAST: u64 = 1024 * 1024;
        let text = String::deserialize(deserializer)?;
        if text == "auto" {
            return Ok(Self(CacheSize::Automatic));
        }
        let size = ByteSize::from_str(&text).map_err(|_| {
            D::Error::custom(format!(
                "`{text}` is no size; write it like \"64MiB\", or \"auto\""
            ))
        })?;
        match size.as_u64() {
            // What is written as nothing is no mistake.
            size if size == 0 || size >= LEAST => Ok(Self(CacheSize::Bytes(size))),
            _ => Err(D::Error::custom(format!(
                "`{text}` is too little to be of use; from \"1MiB\" on, \"0B\" for none, or \"auto\""
            ))),
        }
    }
}

/// Whether something that depends on the machine is used.
#[derive(Deserialize)]
pub(super) enum Switch {
    #[serde(rename = "auto")]
    Automatic,
    #[serde(rename = "off")]
    Off,
}

//! When to speak of a certificate: decided from times alone.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::tls::Remaining;

/// A replacement of the certificate's files that may be under way.
///
/// Two files cannot be replaced at once, so for a while they may not fit, or one
/// of them may be half written. That is worth a word only if it stays so.
#[derive(Debug, Default)]
pub(super) struct Replacement {
    /// Since when the files have been no good.
    since: Option<Instant>,
    told: bool,
}

impl Replacement {
    /// How long nobody is told.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// The files are no good at the time `now`: whether to tell the operator.
    pub(super) fn failed(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let tell = !self.told && now.duration_since(since) > Self::PATIENCE;
        self.told |= tell;
        tell
    }

    /// The files are good: whether the operator had been told otherwise.
    pub(super) fn settled(&mut self) -> bool {
        std::mem::take(self).told
    }
}

/// What the operator has been told of a certificate's end.
#[derive(Debug, Default)]
pub(super) struct Reminder {
    said: Option<(Remaining, SystemTime)>,
}

impl Reminder {
    /// An expired certificate is spoken of again after this.
    const AGAIN: Duration = Duration::from_secs(24 * 3600);

    /// Whether to speak of it at the time `now`. Of what there is to say at the
    /// first look its loading has told.
    pub(super) fn is_due(&mut self, remaining: Remaining, now: SystemTime) -> bool {
        let Some((said, when)) = self.said else {
            self.said = Some((remaining, now));
            return false;
        };
        // A clock that went back is no reason to keep still.
        let again = now.duration_since(when).is_ok_and(|it| it >= Self::AGAIN);
        let due = said != remaining || (remaining == Remaining::Expired && again);
        if due {
            self.said = Some((remaining, now));
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_replacement_has_a_minute() {
        let start = Instant::now();
        let mut replacement = Replacement::default();
        assert!(!replacement.settled());
        let looks = [
            (0, false),
            (2, false),
            (60, false),
            (62, true),
            (64, false),
            (500, false),
        ];
        for (second, told) in looks {
            assert_eq!(
                replacement.failed(start + second * SECOND),
                told,
                "{second}"
            );
        }
        assert!(replacement.settled());
        // The next one has its own minute, and its own word.
        let looks = [(600, false), (650, false), (661, true), (700, false)];
        for (second, told) in looks {
            assert_eq!(
                replacement.failed(start + second * SECOND),
                told,
                "{second}"
            );
        }
        assert!(replacement.settled() && !replacement.settled());
        assert!(!replacement.failed(start + 800 * SECOND));
        assert!(!replacement.settled(), "nothing was said");
    }

    #[test]
    fn each_stage_is_spoken_of_once_and_the_end_daily() {
        let start = SystemTime::UNIX_EPOCH + 1_000_000 * SECOND;
        let mut reminder = Reminder::default();
        let looks = [
            // Said when it was loaded.
            (0, Remaining::Weeks, false),
            (1, Remaining::Weeks, false),
            (14 * 24, Remaining::Days, true),
            (14 * 24 + 1, Remaining::Days, false),
            (20 * 24, Remaining::Days, false),
            (21 * 24, Remaining::Expired, true),
            (21 * 24 + 1, Remaining::Expired, false),
            (22 * 24, Remaining::Expired, true),
            (22 * 24 + 1, Remaining::Expired, false),
            (23 * 24, Remaining::Expired, true),
        ];
        for (hour, remaining, due) in looks {
            assert_eq!(
                reminder.is_due(remaining, start + hour * HOUR),
                due,
                "{hour}"
            );
        }
        assert!(
            !reminder.is_due(Remaining::Expired, start),
            "the clock went back"
        );
    }
}

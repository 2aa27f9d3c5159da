//! When to speak of a certificate: decided from times alone.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::reload::LOOK;
use crate::tls::{Identity, Remaining};

/// A replacement of the certificate's files that may be under way.
///
/// Two files cannot be replaced at once, so for a while they may not fit, or one
/// of them may be half written. That is worth a word only if it stays so.
#[derive(Debug, Default)]
pub(super) struct Replacement {
    /// Since when the files have been no good.
    since: Option<Instant>,
    /// Why they are no good, and since when it has been that.
    reason: Option<(String, Instant)>,
    /// What the operator was told last, and when.
    told: Option<(String, Instant)>,
}

impl Replacement {
    /// How long nobody is told, neither at first nor of another reason: while files
    /// are written, each look may find another one.
    const PATIENCE: Duration = Duration::from_secs(60);
    /// What stays so is spoken of again after this.
    const AGAIN: Duration = Duration::from_secs(24 * 3600);

    /// The files are no good at the time `now`, and why: whether to tell the
    /// operator.
    pub(super) fn failed(&mut self, reason: &str, now: Instant) -> bool {
        let began = *self.since.get_or_insert(now);
        let stands = match &self.reason {
            Some((it, since)) if it == reason => *since,
            _ => {
                self.reason = Some((reason.to_owned(), now));
                now
            }
        };
        let lasts = |since, time| now.duration_since(since) > time;
        let tell = match &self.told {
            None => lasts(began, Self::PATIENCE),
            Some((said, when)) => {
                (said != reason && lasts(stands, Self::PATIENCE)) || lasts(*when, Self::AGAIN)
            }
        };
        if tell {
            self.told = Some((reason.to_owned(), now));
        }
        tell
    }

    /// The files are good: whether the operator had been told otherwise.
    pub(super) fn settled(&mut self) -> bool {
        std::mem::take(self).told.is_some()
    }
}

/// A chain that may become longer yet, for whoever writes it may not have come to
/// its end.
#[derive(Default)]
pub(super) struct Candidate(Option<(Box<Identity>, Instant)>);

impl Candidate {
    /// A look at the time `now` has found it: gives it back if it was found before,
    /// so long ago that a writer would have gone on.
    pub(super) fn seen(&mut self, identity: Box<Identity>, now: Instant) -> Option<Box<Identity>> {
        let since = match self.0.take() {
            Some((before, since)) if before.is_like(&identity) => since,
            _ => now,
        };
        if now.duration_since(since) >= LOOK {
            return Some(identity);
        }
        self.0 = Some((identity, since));
        None
    }

    /// A look has found something else.
    pub(super) fn forget(&mut self) {
        self.0 = None;
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
            let now = start + second * SECOND;
            assert_eq!(replacement.failed("a", now), told, "{second}");
        }
        assert!(replacement.settled());
        // The next one has its own minute, and its own word.
        let looks = [(600, false), (650, false), (661, true), (700, false)];
        for (second, told) in looks {
            let now = start + second * SECOND;
            assert_eq!(replacement.failed("a", now), told, "{second}");
        }
        assert!(replacement.settled() && !replacement.settled());
        assert!(!replacement.failed("a", start + 800 * SECOND));
        assert!(!replacement.settled(), "nothing was said");
    }

    /// A word that was missed in the log of last month is as none.
    #[test]
    fn what_stays_wrong_is_said_daily_and_another_reason_when_it_stays() {
        const DAY: u32 = 24 * 3600;
        let start = Instant::now();
        let mut replacement = Replacement::default();
        let looks = [
            (0, "a", false),
            // Two that take turns have a minute together.
            (30, "b", false),
            (61, "a", true),
            (63, "a", false),
            // Another reason, when it stays.
            (100, "b", false),
            (102, "a", false),
            (104, "b", false),
            (160, "b", false),
            (165, "b", true),
            (167, "b", false),
            (165 + DAY, "b", false),
            (166 + DAY, "b", true),
            (168 + DAY, "b", false),
            (167 + 2 * DAY, "b", true),
        ];
        for (second, reason, told) in looks {
            let now = start + second * SECOND;
            assert_eq!(replacement.failed(reason, now), told, "{second} {reason}");
        }
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

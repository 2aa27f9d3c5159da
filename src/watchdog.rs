//! Deadlines: when a client has kept a connection for too long without getting
//! anywhere.
//!
//! The decision is a pure function of counters and times (`Judge::judge`);
//! the [`Watchdog`] around it looks at the counters now and then. A deadline is
//! therefore noticed up to one look too late, which harms nobody.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::config::Limits;
use crate::transport::activity::{Activity, Counters};

/// The deadlines of a connection after its handshake.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    header: Duration,
    idle: Duration,
    stalled: Duration,
    /// Whether bytes that have come are the start of a request. In HTTP/2 they
    /// may as well be pings, which are no reason to stay.
    bytes_are_requests: bool,
}

impl Deadlines {
    /// For HTTP/1.
    pub fn http1(limits: &Limits) -> Self {
        Self {
            header: limits.header,
            idle: limits.idle,
            stalled: limits.stalled_transfer,
            bytes_are_requests: true,
        }
    }

    /// For HTTP/2.
    pub fn http2(limits: &Limits) -> Self {
        Self {
            bytes_are_requests: false,
            ..Self::http1(limits)
        }
    }

    /// Time between two looks.
    fn interval(&self) -> Duration {
        let shortest = self.header.min(self.idle).min(self.stalled);
        (shortest / 4).clamp(Duration::from_millis(25), Duration::from_secs(2))
    }
}

/// What a client is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It has yet to send a (whole) request.
    Header,
    /// It is being answered, or the end of an answer waits for it.
    Transfer,
    /// It has been answered.
    Idle,
}

/// What is to be done about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Fine,
    /// The client has asked for nothing for a while, which may last; what is kept
    /// for its requests alone can be given back. Said once for each pause.
    Rest,
    /// Say goodbye; nothing is under way.
    Finish,
    /// Cut it off; the deadline with this name passed.
    Abort(&'static str),
}

/// Remembers since when a client has not got anywhere.
#[derive(Debug)]
struct Judge {
    deadlines: Deadlines,
    phase: Phase,
    /// When the phase began, or was last seen to make headway.
    since: Instant,
    /// The counters at that time.
    mark: Counters,
    finishing: bool,
    /// Whether it was said that the client rests.
    rested: bool,
}

/// In `stalled_transfer` a client must take this many bytes. It is far below
/// the 1000 bytes per second at which libostree itself gives up, and enough to
/// tell a slow client from one that pretends.
const HEADWAY: u64 = 4096;

/// A client that pulls never pauses for so long.
const REST: Duration = Duration::from_secs(1);

impl Judge {
    fn new(deadlines: Deadlines, now: Instant) -> Self {
        Self {
            deadlines,
            phase: Phase::Header,
            since: now,
            mark: Counters::default(),
            finishing: false,
            rested: false,
        }
    }

    fn judge(&mut self, now: Instant, counters: Counters) -> Verdict {
        let phase = self.phase_of(&counters);
        if phase != self.phase || self.made_headway(&counters) {
            (self.phase, self.since, self.mark) = (phase, now, counters);
            self.rested = false;
        }
        // As long as no write had to wait, what lies in the kernel's buffer
        // seemed to be delivered. Headway is counted from the lowest point, or
        // a client that has become slow had to read that buffer's megabytes
        // once more before it is seen to read at all.
        self.mark.delivered = self.mark.delivered.min(counters.delivered);
        let (deadline, verdict) = match phase {
            Phase::Header => (self.deadlines.header, Verdict::Abort("header")),
            Phase::Transfer => (self.deadlines.stalled, Verdict::Abort("stalled_transfer")),
            // Whoever does not take a goodbye is cut off a deadline later.
            Phase::Idle if self.finishing => (self.deadlines.idle, Verdict::Abort("idle")),
            Phase::Idle => (self.deadlines.idle, Verdict::Finish),
        };
        let time = now.duration_since(self.since);
        if time < deadline {
            let begins = phase == Phase::Idle && time >= REST && !self.rested && !self.finishing;
            self.rested |= begins;
            return if begins { Verdict::Rest } else { Verdict::Fine };
        }
        if verdict == Verdict::Finish {
            self.finishing = true;
            self.since = now;
        }
        verdict
    }

    fn phase_of(&self, counters: &Counters) -> Phase {
        if counters.started > counters.finished || counters.write_waits {
            Phase::Transfer
        } else if counters.started == 0
            || (self.deadlines.bytes_are_requests && counters.partial_request)
        {
            Phase::Header
        } else {
            Phase::Idle
        }
    }

    /// In a transfer only bytes count: a client could else keep any number of
    /// stalled streams by asking for a trifle now and then. Between transfers
    /// they count as well, for the end of an HTTP/2 reply may lie in h2's buffers
    /// when its request is finished.
    fn made_headway(&self, counters: &Counters) -> bool {
        let bytes = counters.delivered >= self.mark.delivered.saturating_add(HEADWAY);
        let replies = counters.finished > self.mark.finished;
        match self.phase {
            Phase::Transfer => bytes,
            Phase::Idle => bytes || replies,
            Phase::Header => replies,
        }
    }
}

/// Looks at a connection's counters now and then.
#[derive(Debug)]
pub struct Watchdog {
    judge: Judge,
    activity: Arc<Activity>,
    timer: std::pin::Pin<Box<Sleep>>,
}

impl Watchdog {
    /// Watches a connection that has just begun.
    pub fn new(deadlines: Deadlines, activity: Arc<Activity>, now: Instant) -> Self {
        Self {
            judge: Judge::new(deadlines, now),
            activity,
            timer: Box::pin(tokio::time::sleep_until(now + deadlines.interval())),
        }
    }

    /// Until when a client that rests may do so.
    pub fn rests_until(&self) -> Instant {
        self.judge.since + self.judge.deadlines.idle
    }

    /// The client has sent something after a rest. If that was no request, it rests
    /// again.
    pub fn woken(&mut self) {
        self.judge.rested = false;
    }

    /// Waits until something is to be done. Dropping the future loses nothing.
    pub async fn wait(&mut self) -> Verdict {
        loop {
            self.timer.as_mut().await;
            let now = Instant::now();
            let next = now + self.judge.deadlines.interval();
            self.timer.as_mut().reset(next);
            self.activity.report();
            match self.judge.judge(now, self.activity.counters()) {
                Verdict::Fine => {}
                verdict => return verdict,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn judge(bytes_are_requests: bool) -> (Judge, Instant) {
        let deadlines = Deadlines {
            header: 10 * SECOND,
            idle: 30 * SECOND,
            stalled: 60 * SECOND,
            bytes_are_requests,
        };
        let now = Instant::now();
        (Judge::new(deadlines, now), now)
    }

    fn counters(started: u64, finished: u64, delivered: u64, partial_request: bool) -> Counters {
        Counters {
            started,
            finished,
            delivered,
            partial_request,
            write_waits: false,
        }
    }

    /// What is seen at which second, and the verdict.
    type Looks<'a> = &'a [(u32, Counters, Verdict)];

    fn check(bytes_are_requests: bool, story: &str, looks: Looks<'_>) {
        let (mut judge, start) = judge(bytes_are_requests);
        for (second, counters, verdict) in looks {
            let now = start + *second * SECOND;
            assert_eq!(
                judge.judge(now, *counters),
                *verdict,
                "{story}, second {second}"
            );
        }
    }

    #[test]
    fn stories() {
        use Verdict::{Abort, Fine, Finish, Rest};
        let nothing = Counters::default();
        for both in [true, false] {
            check(
                both,
                "never asks",
                &[(9, nothing, Fine), (10, nothing, Abort("header"))],
            );
            check(
                both,
                "asks and leaves",
                &[
                    (5, counters(1, 1, 0, false), Fine),
                    (34, counters(1, 1, 0, false), Rest),
                    (35, counters(1, 1, 0, false), Finish),
                    (64, counters(1, 1, 0, false), Fine),
                    (65, counters(1, 1, 0, false), Abort("idle")),
                ],
            );
            check(
                both,
                "asks now and then",
                &[
                    (5, counters(1, 1, 0, false), Fine),
                    (30, counters(2, 2, 0, false), Fine),
                    (59, counters(2, 2, 0, false), Rest),
                    (60, counters(2, 2, 0, false), Finish),
                ],
            );
            check(
                both,
                "takes the end of an answer out of h2's buffers",
                &[
                    (5, counters(1, 1, 100_000, false), Fine),
                    (30, counters(1, 1, 110_000, false), Fine),
                    (55, counters(1, 1, 120_000, false), Fine),
                    (84, counters(1, 1, 120_000, false), Rest),
                    (85, counters(1, 1, 120_000, false), Finish),
                ],
            );
            check(
                both,
                "rests, and again after the next request",
                &[
                    (5, counters(1, 1, 0, false), Fine),
                    (6, counters(1, 1, 0, false), Rest),
                    (7, counters(1, 1, 0, false), Fine),
                    (8, counters(2, 2, 0, false), Fine),
                    (9, counters(2, 2, 0, false), Rest),
                    (38, counters(2, 2, 0, false), Finish),
                    (40, counters(2, 2, 0, false), Fine),
                ],
            );
            check(
                both,
                "does not read",
                &[
                    (1, counters(1, 0, 100_000, false), Fine),
                    (60, counters(1, 0, 100_000, false), Fine),
                    (
                        61,
                        counters(1, 0, 100_000, false),
                        Abort("stalled_transfer"),
                    ),
                ],
            );
            check(
                both,
                "reads slowly",
                &[
                    (1, counters(1, 0, 100_000, false), Fine),
                    (60, counters(1, 0, 104_096, false), Fine),
                    (119, counters(1, 0, 104_096, false), Fine),
                    (
                        120,
                        counters(1, 0, 104_096, false),
                        Abort("stalled_transfer"),
                    ),
                ],
            );
            check(
                both,
                "reads a byte now and then",
                &[
                    (1, counters(1, 0, 100_000, false), Fine),
                    (30, counters(1, 0, 100_001, false), Fine),
                    (
                        61,
                        counters(1, 0, 100_002, false),
                        Abort("stalled_transfer"),
                    ),
                ],
            );
            check(
                both,
                "asks for trifles beside a stream that it does not read",
                &[
                    (1, counters(2, 0, 100_000, false), Fine),
                    (50, counters(3, 1, 100_100, false), Fine),
                    (60, counters(5, 4, 100_200, false), Fine),
                    (
                        61,
                        counters(6, 5, 100_300, false),
                        Abort("stalled_transfer"),
                    ),
                ],
            );
        }
        let tail = |delivered| Counters {
            write_waits: true,
            ..counters(1, 1, delivered, false)
        };
        for both in [true, false] {
            check(
                both,
                "takes the end slowly",
                &[
                    (1, counters(1, 0, 100_000, false), Fine),
                    (50, tail(104_096), Fine),
                    (100, tail(108_192), Fine),
                    (101, counters(1, 1, 110_000, false), Fine),
                    (131, counters(1, 1, 110_000, false), Finish),
                ],
            );
            check(
                both,
                "is slower than it first seemed",
                &[
                    (1, counters(1, 0, 5_000_000, false), Fine),
                    (2, counters(1, 0, 1_000_000, false), Fine),
                    (61, counters(1, 0, 1_004_096, false), Fine),
                    (120, counters(1, 0, 1_004_096, false), Fine),
                    (
                        121,
                        counters(1, 0, 1_004_096, false),
                        Abort("stalled_transfer"),
                    ),
                ],
            );
            check(
                both,
                "does not take the end",
                &[
                    (1, tail(100_000), Fine),
                    (60, tail(100_000), Fine),
                    (61, tail(100_000), Abort("stalled_transfer")),
                ],
            );
        }
        check(
            true,
            "sends half a header, then waits",
            &[
                (5, counters(1, 1, 0, false), Fine),
                (20, counters(1, 1, 0, true), Fine),
                (29, counters(1, 1, 0, true), Fine),
                (30, counters(1, 1, 0, true), Abort("header")),
            ],
        );
        check(
            false,
            "pings",
            &[
                (5, counters(1, 1, 0, true), Fine),
                (34, counters(1, 1, 0, true), Rest),
                (35, counters(1, 1, 0, true), Finish),
            ],
        );
    }

    #[test]
    fn looks_are_frequent_enough_and_not_too_frequent() {
        let (judge, _) = judge(true);
        assert_eq!(judge.deadlines.interval(), Duration::from_secs(2));
        let hasty = Deadlines {
            idle: Duration::from_millis(1),
            ..judge.deadlines
        };
        assert_eq!(hasty.interval(), Duration::from_millis(25));
    }
}

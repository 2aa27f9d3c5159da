//! Who is missed, and who is not, when the server visits itself.

use std::net::TcpStream;
use std::sync::mpsc as std_mpsc;

use super::super::listeners::tests::{redirects, shared};
use super::*;

/// Far longer than an answer takes, also beside other tests.
const PATIENCE: Duration = Duration::from_secs(20);
/// For what never comes.
const IN_VAIN: Duration = Duration::from_millis(500);

async fn visit(listeners: &[Serving], shared: &Shared, patience: Duration) -> Result<(), String> {
    let (visitor, routes) = (Visitor::new().unwrap(), Routes::new(Vec::new()));
    let calls = calls(0, listeners, shared.reactors.count(), &visitor, &routes);
    assert!(calls.len() >= shared.reactors.count().max(listeners.len()));
    let answers = all_answer(calls, patience).await;
    answers.map_err(|error| format!("{error:#}"))
}

#[tokio::test]
async fn a_server_that_serves_answers_itself() {
    let (_drain, shared) = shared(8);
    let (_, listeners) = redirects(&shared);
    assert_eq!(visit(&listeners, &shared, PATIENCE).await, Ok(()));
}

/// Clients have taken every slot, and the listener waits with one more in its hand.
#[tokio::test]
async fn a_full_server_lives() {
    let (_drain, shared) = shared(1);
    let (address, listeners) = redirects(&shared);
    let _taken = shared.slots.try_take().unwrap();
    let _client = TcpStream::connect(address).unwrap();
    for _ in 0..3 {
        assert_eq!(visit(&listeners, &shared, PATIENCE).await, Ok(()));
    }
}

#[tokio::test]
async fn a_listener_that_has_ended_is_missed() {
    let (drain, shared) = shared(8);
    let (_, listeners) = redirects(&shared);
    drain.send(true).unwrap();
    let door = listeners[0].visits();
    door.closed().await;
    let error = visit(&listeners, &shared, PATIENCE).await.unwrap_err();
    assert!(error.contains("the listener's task has ended"), "{error}");
}

/// One of them is enough: its clients get nothing any more.
#[tokio::test]
async fn a_reactor_that_hangs_is_missed() {
    let (_drain, shared) = shared(8);
    let (_, listeners) = redirects(&shared);
    let last = shared.reactors.count() - 1;
    let (free, held) = std_mpsc::channel::<()>();
    shared
        .reactors
        .spawn_at(last, async move { _ = held.recv() });
    let error = visit(&listeners, &shared, IN_VAIN).await.unwrap_err();
    assert!(
        error.contains(&format!("on reactor {last}: no answer")),
        "{error}"
    );
    drop(free);
    assert_eq!(visit(&listeners, &shared, PATIENCE).await, Ok(()));
}

#[test]
fn to_have_no_descriptor_left_is_no_death() {
    for (errno, expected) in [
        (libc::EMFILE, true),
        (libc::ENFILE, true),
        (libc::EPIPE, false),
    ] {
        assert_eq!(
            is_exhaustion(&io::Error::from_raw_os_error(errno)),
            expected
        );
    }
}

#[test]
fn nobody_is_told_who_does_not_ask() {
    assert_eq!(period(Manager::NONE), None);
}

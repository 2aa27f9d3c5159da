//! The client's end of the control socket: what the subcommands do.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};

use super::peer::group_name;
use super::{Reply, Request, Way};
use crate::config::ControlSocket;
use crate::finding::Finding;

/// How long the server may be silent. It waits for its disks and for the service
/// manager, and neither should take that long.
const PATIENCE: Duration = Duration::from_secs(30);

/// The longest reply that is read, in bytes: far more than any server has to say.
const REPLY_MAX: u64 = 64 << 20;

/// Asks the server that is found this way. What is doubtful about the way is
/// told to `warn`.
///
/// # Errors
/// Why there is no reply, and what to do about it. The server's own refusal is a
/// [`Reply`].
pub fn ask(way: &Way, request: &Request, warn: impl FnOnce(&Finding)) -> anyhow::Result<Reply> {
    let (socket, named) = match way {
        Way::Config(file) => {
            let found = ControlSocket::of(file);
            if let Some(doubt) = &found.doubt {
                warn(&doubt.clone().remedy(remedy(&found.path)));
            }
            let named = named(&found, file);
            (found.path, named)
        }
        Way::Socket(path) => (path.clone(), "see what --socket should name".to_owned()),
    };
    let stream = UnixStream::connect(&socket)
        .map_err(|error| anyhow!("{}", unreachable(&socket, &named, &error)))?;
    let line = exchange(stream, request).with_context(|| {
        format!(
            "the server at {} gave no reply; whether it did as asked is not known: \
             see its log, and `ostree-serve status{way}`",
            socket.display()
        )
    })?;
    serde_json::from_slice(&line).with_context(|| {
        format!(
            "the reply from {} is not understood; is the server of this version ({})?",
            socket.display(),
            env!("CARGO_PKG_VERSION")
        )
    })
}

fn remedy(path: &Path) -> String {
    format!(
        "it asks at {} all the same; if that is wrong, name the socket with --socket PATH: the \
         server's log says where it listens for control",
        path.display()
    )
}

/// Who says that the socket is there.
fn named(found: &ControlSocket, file: &Path) -> String {
    let (path, file) = (found.path.display(), file.display());
    match (found.named, &found.doubt) {
        (true, _) => format!("{file} says control = \"{path}\""),
        (false, None) => format!("{file} names no other"),
        (false, Some(_)) => format!("{file} may name another"),
    }
}

fn exchange(mut stream: UnixStream, request: &Request) -> anyhow::Result<Vec<u8>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    match stream.write_all(&line) {
        Ok(()) => {}
        // It may have said why before it went.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        Err(error) => return Err(error.into()),
    }
    let mut reply = Vec::new();
    let read = BufReader::new(stream.take(REPLY_MAX)).read_until(b'\n', &mut reply);
    match read {
        Ok(_) if reply.pop() == Some(b'\n') => Ok(reply),
        Ok(_) => bail!("it ended in the middle"),
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            bail!("nothing came for {} s", PATIENCE.as_secs())
        }
        Err(error) => Err(error.into()),
    }
}

/// What is said when nobody can be reached.
fn unreachable(socket: &Path, named: &str, error: &io::Error) -> String {
    let path = socket.display();
    match error.kind() {
        ErrorKind::NotFound => format!(
            "there is no control socket at {path}\n    \
             fix: is the server running? {named}, and the running server may have been told \
             otherwise; its log says where it listens for control (name that with --socket), or \
             why it does not"
        ),
        ErrorKind::ConnectionRefused => format!(
            "nobody listens at {path}\n    \
             fix: start the server; {named}"
        ),
        ErrorKind::PermissionDenied => {
            // Whoever may not enter the directory does not see the socket either.
            let group = std::fs::metadata(socket)
                .map_or("that the server runs as".to_owned(), |it| {
                    group_name(it.gid())
                });
            format!(
                "this user may not connect to {path}\n    \
                 fix: do it as root, or as a member of the group {group}"
            )
        }
        _ => format!("cannot connect to {path}: {error}\n    fix: {named}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_to_do() {
        let cases = [
            (
                ErrorKind::NotFound,
                "is the server running? /etc/x.toml says so",
            ),
            (ErrorKind::ConnectionRefused, "fix: start the server"),
            (
                ErrorKind::PermissionDenied,
                "as root, or as a member of the group root",
            ),
            (ErrorKind::OutOfMemory, "cannot connect to /: out of memory"),
        ];
        for (kind, expected) in cases {
            let said = unreachable(Path::new("/"), "/etc/x.toml says so", &kind.into());
            assert!(said.contains(expected), "{said}");
        }
    }

    #[test]
    fn a_server_that_goes_without_a_word_is_told_from_one_that_speaks() {
        let request = Request::Status { prefix: None };
        let cases = [
            ("{}\n", Ok("{}")),
            ("{}", Err("it ended in the middle")),
            ("", Err("it ended in the middle")),
        ];
        for (said, expected) in cases {
            let (stream, mut other) = UnixStream::pair().unwrap();
            other.write_all(said.as_bytes()).unwrap();
            drop(other);
            let reply = exchange(stream, &request).map_err(|error| error.to_string());
            let expected = expected.map(|it| it.as_bytes().to_vec());
            assert_eq!(reply, expected.map_err(str::to_owned));
        }
    }
}

//! `ostree-serve`: a read-only HTTPS server for OSTree `archive` repositories.
//!
//! This page is the map of the program; its modules are named in reading order.
//!
//! # The story of one request
//!
//! A [`listener`] accepts a socket, [`connection`] finds a free slot for it, and one
//! of the [`reactors`] serves it from then on. The client's handshake is made
//! ([`tls`]), after which the kernel may take over the records ([`tls::kernel`]), and
//! hyper reads a request from the [`transport`], under the deadlines of a
//! [`watchdog`]. [`http::Service`] decodes its path, finds the repository or
//! directory by prefix ([`routes`]), and has the rest read as a
//! [`resource::Resource`] by the grammar in [`resource::path`]. [`repo`] turns that
//! into content: a mutable document comes from the [`repo::generation`] that this
//! visitor has to see, an object that was asked for lately from [`repo::cache`], the
//! rest through [`files`], which opens beneath the repository's directory and
//! nowhere else. What is at hand is answered at once, the rest by a future.
//! With what is known of the bytes, [`http::conditional`] makes a validator and
//! judges preconditions, [`http::range`] selects, [`http::response`] makes the
//! reply. hyper sends its [`http::Body`] through the same transport: memory is
//! written, for a file hyper passes on a placeholder ([`transport::outbox`]), and
//! the transport sends the file in its place.
//!
//! ```text
//! start,   main ─ config ─ daemon ─┬─ tls (load), routes ─ repo, statics (open)
//! reload                           └─ listener (bind, or adopt) ─ sandbox ─ connection::accepting
//!
//! brake    main ─ control::client ═ control::server ─ control::brakes ─┬─ repo
//!                                                                      └─ systemd
//!
//! request  listener ─ reactors ─ tls ─ connection ─ http ─ routes ─ resource::path
//!                                                    │              └ repo ─ cache, files
//!                                                    └ conditional, range, response ─ transport
//! ```
//!
//! # The story of one publication
//!
//! A writer renames something into a repository's directory. [`watch`] tells the
//! repository's task, which takes one picture of all mutable files
//! ([`repo::observation`]) and has [`repo::judge`], a pure function, say whether
//! to publish, to wait or to keep what is served; [`format`](mod@format) and
//! [`signature`] know what is in the files. [`repo::keeper`] does what was said,
//! with the clock, the log and the operator's [`repo::brake`]: a new generation is
//! swapped in whole. What clients of the old one still need is kept by
//! [`repo::grace`] and [`repo::deltas`], and what one connection was told is
//! remembered by its [`repo::visitor`].
//!
//! ```text
//! change   watch ─ repo::keeper ─┬─ observation ─ files, format, signature
//!                                ├─ judge
//!                                └─ generation (swapped), grace
//! ```
//!
//! # Modules
//!
//! The command line and what it starts:
//! - [`cli`]: the command line, which manual pages are made of as well;
//! - [`config`]: what the operator wrote, made into what the program means;
//! - [`finding`]: what is wrong with it, where, and what repairs it;
//! - [`daemon`]: start-up, reload and shutdown, as lists of named steps;
//! - [`check`]: everything that can be validated without serving;
//! - [`demo`]: a built-in repository to try clients with;
//! - [`control`]: the brake, and how everything stands, by a Unix socket;
//! - [`sandbox`]: the process gives up what serving does not need;
//! - [`systemd`]: what the service manager is told, and what it keeps; its sockets are
//!   [`listener::passed`], its watchdog is [`daemon`]'s to satisfy;
//! - [`logging`]: the log.
//!
//! The way of a request, and back:
//! - [`listener`], [`reactors`], [`tls`], [`connection`], [`watchdog`], [`transport`];
//! - [`tls::kernel`]: records that the kernel does;
//! - [`http`]: a request becomes a reply;
//! - [`routes`], [`statics`], [`repo`];
//! - [`resource`]: all that an archive repository can be asked for;
//! - [`mod@format`]: reading what ostree wrote;
//! - [`files`]: opening and reading, confined and without stalling;
//! - [`signature`]: whether signatures belong to a document;
//! - [`watch`]: noticing that files changed.
//!
//! # Who does not know what
//!
//! - [`resource`] and [`mod@format`] know no file system, no HTTP and no async code.
//!   They, with the preconditions, ranges and the configuration, read what
//!   strangers wrote, and each such function has a fuzz target.
//! - [`repo`], [`statics`] and [`files`] know no HTTP: they report content and
//!   facts, and [`http`] makes validators of them.
//! - [`http`] knows no sockets and no TLS, so that tests and benchmarks can call
//!   [`http::Service::answer`] with nothing around it.
//! - Only [`connection`] knows both a socket and HTTP. Only [`tls`] names
//!   rustls, only [`watch`] notify, only [`transport`] sendfile, and only [`sandbox`]
//!   Landlock and seccomp.
//! - Every name that is opened for a request comes from
//!   [`resource::path::file_path`], never from request text, and is opened
//!   beneath a directory descriptor. [`repo::observation`] alone looks further,
//!   at what `refs/` lists and at the marks of incomplete commits in `state/`.
//! - [`repo::judge`] knows no files and no clock.
//! - Nothing is ever written, and no validator comes from a file's inode or time.
//! - What `status` shows of the daemon is written to [`control::board`] by it.
//! - [`control::brakes`] knows no sockets, and [`systemd`] does not know what the
//!   bytes mean that it has kept.
//! - There are no globals: what a connection needs is passed to it. (Threads have
//!   buffers of their own in [`transport`], which hold nothing between two calls, and
//!   there is a region of addresses that nobody reads.)
//! - `unsafe` is found at the edge to a system call or to hyper's buffers, each
//!   with its reason, and nowhere else.

#![warn(missing_docs, unreachable_pub)]
// Input never reaches a panic. In tests a panic is how a test fails.
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::todo)
)]

pub mod cli;
pub mod config;
pub mod finding;

pub mod check;
pub mod control;
pub mod daemon;
pub mod demo;
pub mod logging;
pub mod sandbox;
pub mod systemd;

pub mod connection;
pub mod listener;
pub mod reactors;
pub mod tls;
pub mod transport;
pub mod watchdog;

pub mod http;

pub mod files;
pub mod format;
pub mod repo;
pub mod resource;
pub mod routes;
pub mod signature;
pub mod statics;
pub mod watch;

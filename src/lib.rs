//! The map of the program, in reading order.
//!
//! TODO
pub mod check;
pub mod config;
pub mod connection;
pub mod daemon;
pub mod demo;
pub mod files;
pub mod finding;
pub mod format;
pub mod http;
pub mod listener;
pub mod logging;
pub mod repo;
pub mod resource;
pub mod routes;
pub mod statics;
pub mod tls;
pub mod transport;
pub mod watchdog;

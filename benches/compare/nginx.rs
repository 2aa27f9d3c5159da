//! nginx, set up as well as its documentation and experience tell for a
//! directory of many files.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::measure;
use crate::servers::{CONNECTIONS, PATIENCE_SECONDS, Site, kernel_has_tls};

const NGINX: &str = "/usr/sbin/nginx";

/// Ends the program if nginx is not there: a comparison without it is none.
pub fn require() {
    if !Path::new(NGINX).is_file() {
        eprintln!("{NGINX} is missing: apt-get install nginx-light, or dnf install nginx-core");
        std::process::exit(1);
    }
}

/// What `nginx -v` says.
pub fn version() -> String {
    let output = Command::new(NGINX).arg("-v").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    text.trim().trim_start_matches("nginx version: ").to_owned()
}

/// nginx in the foreground, with its configuration written to `directory`.
pub fn command(site: &Site, directory: &Path, [https, http]: [u16; 2]) -> Command {
    let at = directory.display();
    let root = site.root.display();
    let user = user();
    // What stays open in its cache must leave descriptors to connections, each of
    // which may have one for its file.
    let descriptors = measure::descriptor_limit();
    let spare = CONNECTIONS as u64 + 200;
    let cached = 20_000.min(descriptors.saturating_sub(spare)).max(1000);
    let kernel_tls = match kernel_has_tls() {
        true => "ssl_conf_command Options KTLS;\n",
        false => "",
    };
    let text = format!(
        "pid {at}/pid;
user {user};
worker_processes 1;
worker_rlimit_nofile {descriptors};
events {{
  worker_connections {CONNECTIONS};
  use epoll;
}}
http {{
  access_log off;
  log_not_found off;
  server_tokens off;
  default_type application/octet-stream;
  sendfile on;
  tcp_nopush on;
  tcp_nodelay on;
  keepalive_timeout {PATIENCE_SECONDS}s;
  keepalive_requests 1000000000;
  send_timeout {PATIENCE_SECONDS}s;
  client_header_timeout {PATIENCE_SECONDS}s;
  open_file_cache max={cached} inactive=10m;
  open_file_cache_valid 10m;
  open_file_cache_min_uses 1;
  ssl_certificate {at}/certificate.pem;
  ssl_certificate_key {at}/key.pem;
  ssl_protocols TLSv1.2 TLSv1.3;
  ssl_session_cache shared:tls:20m;
  ssl_session_timeout 1d;
  ssl_session_tickets on;
  {kernel_tls}server {{
    listen 127.0.0.1:{https} ssl http2 backlog={CONNECTIONS};
    listen 127.0.0.1:{http} backlog={CONNECTIONS};
    root {root};
  }}
}}
"
    );
    let file = directory.join("nginx.conf");
    fs::write(&file, text).unwrap();
    let mut command = Command::new(NGINX);
    command
        .args(["-g", "daemon off;", "-e", "stderr", "-c"])
        .arg(file);
    command
}

/// The directory of the repository is this user's alone.
fn user() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

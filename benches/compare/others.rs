//! Servers beside nginx that are compared where they are installed: Apache and
//! Caddy, as their documentation advises for files, on one core.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::servers::{CONNECTIONS, PATIENCE_SECONDS, Site};

/// Where Debian and Fedora have them.
const APACHE: [&str; 2] = ["/usr/sbin/apache2", "/usr/sbin/httpd"];
const APACHE_MODULES: [&str; 2] = ["/usr/lib/apache2/modules", "/usr/lib64/httpd/modules"];
const CADDY: [&str; 1] = ["/usr/bin/caddy"];

/// Apache's program, if there is one.
pub fn apache() -> Option<PathBuf> {
    first(&APACHE).filter(|_| first(&APACHE_MODULES).is_some())
}

/// Caddy's program, if there is one.
pub fn caddy() -> Option<PathBuf> {
    first(&CADDY)
}

fn first(paths: &[&str]) -> Option<PathBuf> {
    let there = |it: &&&str| Path::new(it).exists();
    paths.iter().find(there).map(PathBuf::from)
}

/// Apache in the foreground with one process of many threads (its event MPM).
pub fn apache_command(
    program: &Path,
    site: &Site,
    directory: &Path,
    [https, http]: [u16; 2],
) -> Command {
    let at = directory.display();
    let root = site.root.display();
    let modules = first(&APACHE_MODULES).unwrap_or_default();
    let modules = modules.display();
    // What the system's package has built in already is not loaded again.
    let load: String = ["mpm_event", "unixd", "authz_core", "socache_shmcb", "ssl", "http2"]
        .iter()
        .map(|name| {
            format!(
                "<IfModule !{name}_module>\nLoadModule {name}_module {modules}/mod_{name}.so\n</IfModule>\n"
            )
        })
        .collect();
    // It refuses to serve as root.
    let text = format!(
        "ServerRoot {at}
PidFile {at}/pid
ErrorLog /dev/stderr
{load}User #65534
Group #65534
ServerName localhost
ServerLimit 1
StartServers 1
ThreadLimit 512
ThreadsPerChild 512
MaxRequestWorkers 512
MaxConnectionsPerChild 0
AsyncRequestWorkerFactor 16
ListenBacklog {CONNECTIONS}
Timeout {PATIENCE_SECONDS}
KeepAlive On
KeepAliveTimeout {PATIENCE_SECONDS}
MaxKeepAliveRequests 0
EnableSendfile On
EnableMMAP On
Listen 127.0.0.1:{https}
Listen 127.0.0.1:{http}
SSLSessionCache shmcb:{at}/sessions(5120000)
SSLProtocol -all +TLSv1.2 +TLSv1.3
DocumentRoot {root}
<Directory {root}>
  AllowOverride None
  Options FollowSymLinks
  Require all granted
</Directory>
<VirtualHost 127.0.0.1:{https}>
  Protocols h2 http/1.1
  SSLEngine on
  SSLCertificateFile {at}/certificate.pem
  SSLCertificateKeyFile {at}/key.pem
</VirtualHost>
"
    );
    let file = directory.join("apache.conf");
    fs::write(&file, text).unwrap();
    let mut command = Command::new(program);
    command.args(["-D", "FOREGROUND", "-f"]).arg(file);
    command
}

/// Caddy, which has as many threads as it may use cores.
pub fn caddy_command(
    program: &Path,
    site: &Site,
    directory: &Path,
    [https, http]: [u16; 2],
) -> Command {
    let at = directory.display();
    let root = site.root.display();
    let text = format!(
        "{{
  admin off
  auto_https off
  grace_period 100ms
  log {{
    level ERROR
  }}
  servers {{
    timeouts {{
      idle {PATIENCE_SECONDS}s
    }}
  }}
}}
https://localhost:{https} {{
  bind 127.0.0.1
  tls {at}/certificate.pem {at}/key.pem
  root * {root}
  file_server
}}
http://localhost:{http} {{
  bind 127.0.0.1
  root * {root}
  file_server
}}
"
    );
    let file = directory.join("Caddyfile");
    fs::write(&file, text).unwrap();
    let mut command = Command::new(program);
    command.arg("run").arg("--config").arg(file);
    command.args(["--adapter", "caddyfile"]);
    for name in ["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"] {
        command.env(name, directory);
    }
    command
}

/// Their versions, and who is missing.
pub fn versions() -> String {
    let said = |program: Option<PathBuf>, argument| {
        let output = Command::new(program?).arg(argument).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Some(text.lines().next()?.trim().to_owned())
    };
    let apache = said(apache(), "-v");
    let caddy = said(caddy(), "version");
    let missing = |name| format!("{name} is not installed, and left out");
    [
        apache.unwrap_or_else(|| missing("Apache (apache2-bin)")),
        caddy.map_or_else(|| missing("Caddy (caddy)"), |it| format!("Caddy {it}")),
    ]
    .join("; ")
}

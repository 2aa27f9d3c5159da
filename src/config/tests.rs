//! Whole configurations: what is accepted, what is said about the rest, and the
//! shipped file.

use super::*;

const SHIPPED: &str = include_str!("../../config/serve.toml");

fn parse(text: &str) -> Result<Config, Vec<Finding>> {
    Config::parse(text, Path::new("/etc/x/serve.toml"))
}

const TLS: &str = "[tls]\ncertificate = \"c.pem\"\n";
const REPO: &str = "[[repo]]\nprefix = \"/repo\"\npath = \"repo\"\n";

#[test]
fn a_certificate_and_a_repository_suffice() {
    let config = parse(&format!("{TLS}{REPO}")).unwrap();
    let tls = config.tls.unwrap();
    assert_eq!(tls.certificate.value, Path::new("/etc/x/c.pem"));
    assert_eq!(tls.private_key.value, Path::new("/etc/x/c.pem"));
    assert_eq!(tls.protocols, [Protocol::Http2, Protocol::Http1]);
    assert!(tls.client_ca.is_none());
    assert_eq!(config.listen.https, ["[::]:8443".parse().unwrap()]);
    assert_eq!(config.listen.redirect, ["[::]:8080".parse().unwrap()]);
    assert_eq!(config.listen.http, []);
    assert_eq!(config.listen.admin, "127.0.0.1:9443".parse().unwrap());
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.repos[0].mount.path.value, Path::new("/etc/x/repo"));
    assert_eq!(
        config.repos[0].mount.path.place.to_string(),
        "/etc/x/serve.toml:5:8"
    );
}

#[test]
fn everything_can_be_said() {
    let text = r#"
[listen]
https = ["0.0.0.0:443", "[::1]:443", "unix:s"]
redirect = ["192.0.2.1:80"]
http = ["unix:/run/x"]
admin = "unix:admin"
public_name = "repo.example.com:443"
[tls]
certificate = "/c"
private_key = "/k"
protocols = ["http/1.1"]
client_ca = "ca"
[limits]
connections = 1
header_size = "8KiB"
handshake = "100ms"
header = "1s 500ms"
idle = "5m"
stalled_transfer = "24h"
drain = "2s"
[sandbox]
mode = "require"
user = "www"
directories = ["/d", "e"]
[[static]]
prefix = "/"
path = "/www"
[[repo]]
prefix = "/a/b"
path = "/b"
[[static]]
prefix = "/a/b/appstream"
path = "/b2"
"#;
    let config = parse(text).unwrap();
    assert_eq!(config.listen.https[2], Address::Unix("/etc/x/s".into()));
    assert_eq!(config.listen.public_name.unwrap().port, Some(443));
    let sandbox = &config.sandbox;
    assert_eq!((sandbox.mode, &*sandbox.user), (Confine::Required, "www"));
    let directories = sandbox.directories.iter().map(|it| it.value.as_path());
    assert!(directories.eq(["/d", "/etc/x/e"].map(Path::new)));
    let limits = config.limits;
    assert_eq!((limits.connections, limits.header_size), (1, 8192));
    let deadlines = [
        limits.handshake,
        limits.header,
        limits.idle,
        limits.stalled_transfer,
        limits.drain,
    ];
    assert_eq!(
        deadlines.map(|it| it.as_millis()),
        [100, 1500, 300_000, 86_400_000, 2000]
    );
    assert_eq!((config.repos.len(), config.statics.len()), (1, 2));
}

/// Each wrong text, and what every finding about it has to contain.
#[test]
fn wrong_configurations_are_explained() {
    let both = |listen: &str| format!("{listen}{TLS}{REPO}");
    let repo_at = |prefix: &str| format!("[[repo]]\nprefix = \"{prefix}\"\npath = \"p\"\n");
    let static_at = |prefix: &str| format!("[[static]]\nprefix = \"{prefix}\"\npath = \"p\"\n");
    let cases = [
        // Unknown keys: the key, the place, the nearest known one.
        (
            both("[listen]\nhtpps = []\n"),
            vec![":2:1: error: unknown key `htpps`\n    fix: did you mean `https`?"],
        ),
        (
            format!("{TLS}privat_key = \"k\"\n{REPO}"),
            vec![":3:1: error: unknown key `privat_key`\n    fix: did you mean `private_key`?"],
        ),
        (
            format!("{TLS}{REPO}[limit]\n"),
            vec![":6:2: error: unknown key `limit`\n    fix: did you mean `limits`?"],
        ),
        (
            both("[limits]\nstaled-transfer = \"1s\"\n"),
            vec!["did you mean `stalled_transfer`?"],
        ),
        (
            format!("{TLS}{REPO}colour = \"red\"\n"),
            vec![
                "unknown key `colour`",
                "the keys known here are: prefix, path",
            ],
        ),
        (
            both("verbose = true\n"),
            vec![
                ":1:1: error: unknown key `verbose`",
                "listen, tls, limits, transfer, sandbox, repo, static",
            ],
        ),
        // Not TOML, or of the wrong type.
        (both("[listen\n"), vec![":1:"]),
        (
            both("[listen]\nhttps = 8443\n"),
            vec![":2:9:", "expected a sequence"],
        ),
        (
            format!("{TLS}[[repo]]\nprefix = \"/a\"\n"),
            vec![":3:1:", "missing field `path`"],
        ),
        // Addresses.
        (
            both("[listen]\nhttps = [\"localhost:1\"]\n"),
            vec![":2:10:", "`localhost:1` is no address"],
        ),
        (
            both("[listen]\nhttps = [\"[::]:8080\"]\n"),
            vec!["`[::]:8080` is in use already", "of its own"],
        ),
        (
            both("[listen]\nhttp = [\"127.0.0.1:8443\"]\n"),
            vec![":2:9:", "in use already, by `[::]:8443`"],
        ),
        (
            both("[listen]\nadmin = \"[::1]:8443\"\n"),
            vec![":2:9:", "in use already"],
        ),
        (
            both("[listen]\nhttps = []\nredirect = []\n"),
            vec!["nothing to listen at"],
        ),
        (
            both("[listen]\nhttps = []\nhttp = [\"127.0.0.1:1\"]\n"),
            vec!["`listen.redirect` has no HTTPS port"],
        ),
        (
            both("[listen]\npublic_name = \"a/b\"\n"),
            vec![":2:15:", "public_name `a/b` is no host name"],
        ),
        // TLS.
        (REPO.into(), vec!["a certificate is missing"]),
        (
            format!("{TLS}protocols = []\n{REPO}"),
            vec![":3:13:", "`protocols` is empty"],
        ),
        (
            format!("{TLS}protocols = [\"h3\"]\n{REPO}"),
            vec![":3:14:", "unknown protocol `h3`"],
        ),
        (
            format!("{TLS}protocols = [\"h2\", \"h2\"]\n{REPO}"),
            vec!["`h2` is named twice"],
        ),
        // Limits.
        (
            both("[limits]\nidle = \"soon\"\n"),
            vec![":2:8:", "`soon` is no duration", "\"30s\""],
        ),
        (
            both("[limits]\nidle = \"30\"\n"),
            vec![":2:8:", "`30` is no duration"],
        ),
        (
            both("[limits]\nidle = 30\n"),
            vec![":2:8:", "expected a string"],
        ),
        (
            both("[limits]\nidle = \"0s\"\n"),
            vec![":2:8:", "out of range"],
        ),
        (
            both("[limits]\ndrain = \"2 years\"\n"),
            vec![":2:9:", "out of range"],
        ),
        (
            both("[limits]\nconnections = 0\n"),
            vec![":2:15:", "at least 1"],
        ),
        (
            both("[limits]\nheader_size = \"1GB\"\n"),
            vec![":2:15:", "out of range"],
        ),
        (
            both("[limits]\nheader_size = \"big\"\n"),
            vec!["`big` is no size"],
        ),
        // Prefixes.
        (TLS.into(), vec!["nothing to serve"]),
        (
            format!("{TLS}{}", repo_at("repo")),
            vec![":4:10:", "must begin with `/`"],
        ),
        (
            format!("{TLS}{}{}", repo_at("/a"), repo_at("/a/")),
            vec![":7:10:", "`/a` is in use already"],
        ),
        (
            format!("{TLS}{}{}", repo_at("/a"), static_at("/a")),
            vec!["`/a` is in use already"],
        ),
        (
            format!("{TLS}{}{}", repo_at("/a/b"), repo_at("/a")),
            vec![":4:10:", "`/a/b` overlaps the repository at `/a`"],
        ),
        (
            format!("{TLS}{}{}", repo_at("/a"), static_at("/a/refs/x")),
            vec!["`/a/refs/x` overlaps"],
        ),
    ];
    for (text, expected) in cases {
        let findings = parse(&text).expect_err(&text);
        let said: Vec<String> = findings.iter().map(ToString::to_string).collect();
        let said = said.join("\n");
        for part in expected {
            assert!(
                said.contains(part),
                "{text}\n--- {part} is not in ---\n{said}"
            );
        }
        assert!(said.starts_with("/etc/x/serve.toml"), "{said}");
    }
}

#[test]
fn all_findings_are_reported_together() {
    // Addresses, a protocol, nothing to serve; and what a bad address for
    // `admin` does not hide.
    let text = "[listen]\nhttps = [\"x\"]\nadmin = \"y\"\n[tls]\ncertificate = \"c\"\nprotocols = [\"z\"]\n";
    assert_eq!(parse(text).unwrap_err().len(), 4);
    // Nothing to listen at, no port to redirect to, nothing to serve.
    assert_eq!(parse("[listen]\nhttps = []\n").unwrap_err().len(), 3);
}

#[test]
fn a_file_that_is_not_there_is_explained() {
    let findings = Config::load(Path::new("/nonexistent/serve.toml")).unwrap_err();
    let said = findings[0].to_string();
    assert!(
        said.starts_with("/nonexistent/serve.toml: error: cannot be read"),
        "{said}"
    );
    assert!(said.contains("--config"), "{said}");
}

#[test]
fn the_shipped_file_serves_the_whole_infrastructure() {
    let config = parse(SHIPPED).unwrap();
    let prefixes: Vec<String> = config
        .repos
        .iter()
        .map(|it| it.mount.prefix.to_string())
        .collect();
    assert_eq!(
        prefixes,
        ["/repo/flatpak", "/repo/kinoite/dev", "/repo/kinoite/prod"]
    );
    assert_eq!(config.limits, Limits::default());
}

/// The shipped file shows the defaults as comments. Taking the comment marks
/// away must change nothing, and must leave no key out.
#[test]
fn the_shipped_file_documents_every_key_with_its_default() {
    let is_key = |line: &str| {
        let key = line.split(" =").next().unwrap_or_default();
        line.contains(" =")
            && !key.is_empty()
            && key
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    let uncommented: Vec<&str> = SHIPPED
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            // A key without a default has no value to show.
            Some(rest) if is_key(rest) && !rest.ends_with('=') => rest,
            _ => line,
        })
        .collect();
    let [shown, hidden] = [uncommented.join("\n").as_str(), SHIPPED].map(|text| {
        let mut config = parse(text).unwrap_or_else(|findings| panic!("{findings:?}"));
        // Only one of them is written anywhere.
        config.listen.places.clear();
        config.listen.control.place = Path::new("/etc/x").into();
        format!(
            "{:?} {:?} {:?} {:?}",
            config.listen,
            config.limits,
            config.sandbox,
            config.tls.map(|tls| tls.protocols)
        )
    });
    assert_eq!(shown, hidden);

    let documented: Vec<&str> = SHIPPED
        .lines()
        .map(|line| line.strip_prefix("# ").unwrap_or(line))
        .filter(|line| is_key(line))
        .filter_map(|line| line.split(" =").next())
        .collect();
    let known = written::known_keys();
    for key in &known {
        assert!(
            documented.contains(&key.as_str()),
            "{key} is not in serve.toml"
        );
    }
    assert!(known.len() > 15, "{known:?}");
}

#[test]
fn addresses_know_their_place() {
    let config = parse("[listen]\nhttps = []\nredirect = []\nhttp = [\"127.0.0.1:80\",\n  \"[::1]:80\"]\n[[repo]]\nprefix = \"/\"\npath = \"r\"\n").unwrap();
    let position = |address: &str| {
        let place = config.listen.place(&address.parse().unwrap())?;
        place.position
    };
    assert_eq!(position("127.0.0.1:80"), Some((4, 9)));
    assert_eq!(position("[::1]:80"), Some((5, 3)));
    assert_eq!(position("127.0.0.1:9443"), None, "a default");
    assert_eq!(position("127.0.0.1:81"), None);
}

#[test]
fn publishing_means_the_same_wherever_it_is_written() {
    let publishing = |lines: &str| {
        let text =
            format!("[listen]\nhttps = []\nredirect = []\nhttp = [\"127.0.0.1:80\"]\n{lines}");
        parse(&text).unwrap().repos.remove(0).publishing
    };
    let repo = "[[repo]]\nprefix = \"/\"\npath = \"r\"\n";
    let keys = publishing(&format!("{repo}verify_keys = [\"a.gpg\"]\n"));
    let cases = [
        (
            format!("# Moved.\n\n{repo}verify_keys = [\"a.gpg\"]\n"),
            true,
        ),
        (format!("{repo}verify_keys = [\"b.gpg\"]\n"), false),
        (
            format!("{repo}verify_keys = [\"a.gpg\"]\npoll = \"1s\"\n"),
            false,
        ),
        (repo.to_owned(), false),
    ];
    for (text, same) in cases {
        assert_eq!(publishing(&text).means_same(&keys), same, "{text}");
    }
}

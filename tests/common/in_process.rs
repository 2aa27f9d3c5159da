//! Requests answered in this process, without sockets, and what every reply has
//! to fulfil.

use std::sync::Arc;

use http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HOST, HeaderMap,
    LAST_MODIFIED,
};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use ostree_serve::config::Publishing;
use ostree_serve::http::Service;
use ostree_serve::repo::Repo;
use ostree_serve::repo::visitor::Visitor;
use ostree_serve::routes::{Routes, Site};
use ostree_serve::statics::Statics;
use tokio::runtime::Runtime;

use super::TestRepo;

/// A service with a runtime to answer in.
pub struct InProcess {
    service: Service,
    runtime: Runtime,
}

/// A reply that has arrived.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of a header that is there at most once.
    pub fn header(&self, name: impl http::header::AsHeaderName) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next().map(|value| value.to_str().unwrap());
        assert!(values.next().is_none(), "twice {value:?}");
        value
    }

    /// The entity tag, with its quotes.
    pub fn tag(&self) -> &str {
        self.header(ETAG).expect("an entity tag")
    }
}

/// A repository at its directory, its files as they lie.
pub fn repo_site(repo: &TestRepo) -> Site {
    Site::Repo(Arc::new(Repo::open(&repo.path(), as_files_lie()).unwrap()))
}

/// No generations: what a test puts into a repository is there at once.
pub fn as_files_lie() -> Publishing {
    Publishing {
        coherent: false,
        ..Publishing::default()
    }
}

/// A directory of plain files.
pub fn static_site(path: &std::path::Path) -> Site {
    Site::Statics(Arc::new(Statics::open(path).unwrap()))
}

impl InProcess {
    /// Serves these sites, each under its prefix.
    pub fn new(sites: Vec<(&str, Site)>) -> Self {
        let sites = sites
            .into_iter()
            .map(|(prefix, site)| (prefix.parse().unwrap(), site));
        Self {
            service: Service::new(Routes::new(sites.collect())),
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap(),
        }
    }

    /// Serves one repository at `/repo`.
    pub fn of(repo: &TestRepo) -> Self {
        Self::new(vec![("/repo", repo_site(repo))])
    }

    /// Answers a GET request.
    pub fn get(&self, path: &str) -> Answer {
        self.ask(&Method::GET, path, &[])
    }

    /// Answers a GET request with more headers.
    pub fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.ask(&Method::GET, path, headers)
    }

    /// Answers a request with these headers and a host.
    pub fn ask(&self, method: &Method, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "localhost");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.ask_as_it_is(request.body(()).unwrap())
    }

    /// Answers a request as it is.
    pub fn ask_as_it_is(&self, request: Request<()>) -> Answer {
        let (head, ()) = request.into_parts();
        let answer = self.runtime.block_on(async {
            let (reply, body) = self
                .service
                .answer(&head, &Visitor::unknown())
                .await
                .into_parts();
            Answer {
                status: reply.status.as_u16(),
                headers: reply.headers,
                body: body.collect().await.unwrap().to_bytes().into(),
            }
        });
        require_sound(&answer, &head.method, head.uri.path());
        answer
    }
}

/// What is true of every reply, whatever was asked.
fn require_sound(answer: &Answer, method: &Method, path: &str) {
    let about = format!("{method} {path}: {answer:?}");
    let status = StatusCode::from_u16(answer.status).unwrap();
    let len = answer.header(CONTENT_LENGTH);
    match (status, method == Method::HEAD) {
        // A length would be that of the reply with a body (RFC 9110, section 8.6).
        (StatusCode::NOT_MODIFIED, _) => {
            assert_eq!((len, answer.body.len()), (None, 0), "{about}")
        }
        (_, true) => assert!(len.is_some() && answer.body.is_empty(), "{about}"),
        (_, false) => assert_eq!(len, Some(&*answer.body.len().to_string()), "{about}"),
    }
    // Dates differ from mirror to mirror, and encoded bytes are not the bytes
    // that signatures and checksums are about.
    assert!(!answer.headers.contains_key(LAST_MODIFIED), "{about}");
    assert!(!answer.headers.contains_key(CONTENT_ENCODING), "{about}");

    let cache_control = answer.header(CACHE_CONTROL).expect("Cache-Control");
    match status.is_client_error() || status.is_server_error() {
        true => {
            assert_eq!(cache_control, "no-store", "{about}");
            assert!(!answer.headers.contains_key(ETAG), "{about}");
        }
        false => {
            assert_ne!(cache_control, "no-store", "{about}");
            let tag = answer.tag();
            assert!(tag.starts_with('"') && tag.ends_with('"'), "{about}");
        }
    }
    // A type is told of what has bytes, sent or, for HEAD, not sent.
    let is_typed = status.is_success() || len.is_some_and(|len| len != "0");
    let has_type = answer.headers.contains_key(CONTENT_TYPE);
    assert_eq!(has_type, is_typed, "{about}");
}

/// Puts an example of everything that a client can ask for into the
/// repository, and gives all names with what `Cache-Control` says of them.
pub fn one_of_each(repo: &TestRepo) -> Vec<(String, &'static str)> {
    const IMMUTABLE: &str = "public, max-age=31536000, immutable";
    const BRIEF: &str = "public, max-age=300";
    const REVALIDATE: &str = "no-cache";
    let [a, b] = ["a", "b"].map(|digit| digit.repeat(64));
    let planted = [
        (format!("summaries/{a}.gz"), IMMUTABLE),
        (format!("summaries/{a}-{b}.delta"), BRIEF),
        (format!("summaries/{a}.idx.sig"), REVALIDATE),
        ("summary.idx".into(), REVALIDATE),
        ("summary.idx.sig".into(), REVALIDATE),
        ("refs/mirrors/org.example.Demo/stable".into(), REVALIDATE),
        (
            format!("objects/{}/{}.commit-tombstone", &a[..2], &a[2..]),
            REVALIDATE,
        ),
    ];
    for (name, _) in &planted {
        let path = repo.file(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("This is {name}.\n")).unwrap();
    }
    let mut all = vec![
        (repo.find(".commit"), IMMUTABLE),
        (repo.find(".dirtree"), IMMUTABLE),
        (repo.find(".dirmeta"), IMMUTABLE),
        (repo.find(".filez"), IMMUTABLE),
        // Too large to be read at once.
        (repo.plant_object(100_000), IMMUTABLE),
        (repo.find("/superblock"), BRIEF),
        // The larger one of the two is too.
        (repo.find("QGg/0"), BRIEF),
        (repo.find(".commitmeta"), REVALIDATE),
        (repo.find(".index"), REVALIDATE),
        ("config".into(), REVALIDATE),
        ("summary".into(), REVALIDATE),
        ("summary.sig".into(), REVALIDATE),
        ("refs/heads/demo/x86_64/stable".into(), REVALIDATE),
        // An alias: a symbolic link.
        ("refs/heads/demo/x86_64/latest".into(), REVALIDATE),
    ];
    all.extend(planted);
    all
}

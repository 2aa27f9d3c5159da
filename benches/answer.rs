//! From request to the last byte of the reply, without sockets: what the
//! program itself costs. All files are in the page cache.

#[path = "../tests/common/mod.rs"]
mod common;
mod objects;

use common::TestRepo;
use common::in_process::repo_site;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http::header::HOST;
use http::request::Parts;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use ostree_serve::http::Service;
use ostree_serve::repo::visitor::Visitor;
use ostree_serve::routes::Routes;

fn answers(criterion: &mut Criterion) {
    let repo = TestRepo::new();
    let all: Vec<Parts> = objects::plant(&repo, 1000)
        .iter()
        .map(|name| request(name, None))
        .collect();
    let median = repo.plant_object(objects::MEDIAN);
    let large = repo.plant_object(objects::LARGE);
    let routes = Routes::new(vec![("/repo".parse().unwrap(), repo_site(&repo))]);
    let service = Service::new(routes);
    let runtime = ostree_serve::daemon::runtime().unwrap();

    let tag = runtime.block_on(async {
        let reply = service
            .answer(&request(&median, None), &Visitor::unknown())
            .await;
        reply.headers()["etag"].to_str().unwrap().to_owned()
    });
    let cases = [
        ("200 small", request(&median, None), 200, objects::MEDIAN),
        ("200 large", request(&large, None), 200, objects::LARGE),
        (
            "200 summary",
            request("summary", None),
            200,
            repo.read("summary").len(),
        ),
        ("304", request(&median, Some(&tag)), 304, 0),
        ("404 absent", request(&common::object_name(7), None), 404, 0),
        ("404 outside", request("wp-login.php", None), 404, 0),
    ];
    let mut group = criterion.benchmark_group("answer");
    for (name, head, status, len) in cases {
        if len > 0 {
            group.throughput(Throughput::Bytes(len as u64));
        } else {
            group.throughput(Throughput::Elements(1));
        }
        group.bench_function(name, |bencher| {
            bencher.to_async(&runtime).iter(|| async {
                let (got, sent) = drain(&service, &head).await;
                assert_eq!((got.as_u16(), sent), (status, len));
            });
        });
    }
    let mut next = all.iter().cycle();
    group.throughput(Throughput::Elements(1));
    group.bench_function("200 of all sizes", |bencher| {
        bencher.to_async(&runtime).iter(|| {
            let head = next.next().expect("a cycle");
            async { assert_eq!(drain(&service, head).await.0, StatusCode::OK) }
        });
    });
    group.finish();
}

fn request(name: &str, tag: Option<&str>) -> Parts {
    let mut request = Request::get(format!("/repo/{name}")).header(HOST, "localhost");
    if let Some(tag) = tag {
        request = request.header("if-none-match", tag);
    }
    request.body(()).unwrap().into_parts().0
}

/// The status of the reply, and the length of its body.
async fn drain(service: &Service, head: &Parts) -> (StatusCode, usize) {
    let reply = service.answer(head, &Visitor::unknown()).await;
    let status = reply.status();
    let mut body = reply.into_body();
    let mut len = 0;
    while let Some(frame) = body.frame().await {
        len += frame.unwrap().data_ref().map_or(0, |bytes| bytes.len());
    }
    (status, len)
}

criterion_group!(benches, answers);
criterion_main!(benches);

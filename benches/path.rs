//! The grammar alone: what each request pays before the first system call.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use ostree_serve::resource::path::{decode, file_path, parse};

const NAMES: [(&str, &str); 6] = [
    (
        "filez",
        "objects/2c/26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae.filez",
    ),
    (
        "delta part",
        "deltas/LC/a0a2j_xo_5m0U8HTBBNBNCLXBkg7+g+YpeiGJm564-LCa0a2j_xo_5m0U8HTBBNBNCLXBkg7+g+YpeiGJm564/10",
    ),
    ("ref", "refs/heads/fedora/43/x86_64/kinoite"),
    ("summary", "summary"),
    // What scanners ask for, and what is almost right.
    ("wp-login", "wp-login.php"),
    (
        "filez in capitals",
        "objects/2c/26B46B68FFC68FF99B453C1D30413413422D706483BFA0F98A5E886266E7AE.filez",
    ),
];

fn grammar(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    for (name, path) in NAMES {
        group.bench_function(name, |bencher| bencher.iter(|| parse(black_box(path))));
    }
    group.finish();

    let mut group = criterion.benchmark_group("file_path");
    for (name, path) in NAMES {
        let Some(resource) = parse(path) else {
            continue;
        };
        group.bench_function(name, |bencher| {
            bencher.iter(|| file_path(black_box(&resource)))
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("decode");
    let plain = NAMES[1].1;
    let escaped = plain.replace('+', "%2B");
    for (name, path) in [("without escapes", plain), ("with escapes", &escaped)] {
        group.bench_function(name, |bencher| bencher.iter(|| decode(black_box(path))));
    }
    group.finish();
}

criterion_group!(benches, grammar);
criterion_main!(benches);

//! From a new summary to knowing of it. Nearly all of it is waiting for quiet,
//! 100 ms; what is above that is the kernel's and the program's time.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use ostree_serve::config::Notice;
use ostree_serve::watch::{Cause, Watch};
use tempfile::TempDir;

/// Directories below `refs/`, which are listed at each change.
const REF_DIRECTORIES: usize = 100;

fn notice(criterion: &mut Criterion) {
    let runtime = ostree_serve::daemon::runtime().unwrap();
    let mut group = criterion.benchmark_group("notice");
    group.sample_size(20);
    for (name, parent) in [
        ("in memory", "/dev/shm"),
        ("on disk", env!("CARGO_TARGET_TMPDIR")),
    ] {
        let place = TempDir::new_in(parent).unwrap();
        for number in 0..REF_DIRECTORIES {
            let directory = format!("refs/heads/app/{number}");
            fs::create_dir_all(place.path().join(directory)).unwrap();
        }
        let mut watch = {
            let _inside = runtime.enter();
            let never = Duration::from_secs(24 * 3600);
            Watch::repository(place.path(), Notice::Automatic, never)
        };
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| {
                let one = || runtime.block_on(once(place.path(), &mut watch));
                std::iter::repeat_with(one).take(times as usize).sum()
            });
        });
    }
    group.finish();
}

async fn once(place: &Path, watch: &mut Watch) -> Duration {
    let new = place.join("tmp-summary");
    fs::write(&new, "new").unwrap();
    let start = Instant::now();
    fs::rename(&new, place.join("summary")).unwrap();
    assert_eq!(watch.changed().await, Cause::Event);
    start.elapsed()
}

criterion_group!(benches, notice);
criterion_main!(benches);

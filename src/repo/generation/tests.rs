//! How long what was replaced still answers, and how much of it.

use super::*;

fn directory() -> Arc<Directory> {
    Arc::new(Directory::open(std::path::Path::new("/")).unwrap())
}

fn name(number: u64) -> Resource<'static> {
    Resource::SubSummary {
        digest: Checksum::of(&number.to_le_bytes()),
    }
}

/// A generation with a sub-summary of its own number.
fn generation(number: u64) -> Arc<Generation> {
    let content = Content::Memory(Bytes::from(number.to_string()));
    let named = Arc::new(Named {
        content,
        digest: None,
    });
    Arc::new(Generation {
        number,
        published: SystemTime::now(),
        directory: directory(),
        config: Document::new(Bytes::new()),
        documents: RootDocuments::default(),
        refs: BTreeMap::new(),
        named: HashMap::from([(name(number), named)]),
        listed: Listed::default(),
        unreadable: Unreadable::default(),
        commits: HashSet::new(),
    })
}

/// Which of the first generations still answer.
fn answering(publications: &Publications, of: u64) -> Vec<u64> {
    (0..of)
        .filter(|number| publications.find_named(&name(*number)).is_some())
        .collect()
}

const GRACE: Duration = Duration::from_secs(3600);

#[test]
fn documents_of_past_generations_answer_for_the_grace() {
    let publications = Publications::new(Period::new(GRACE));
    let start = Instant::now();
    assert!(publications.current().is_none());
    for number in 0..10 {
        publications.publish(generation(number), start);
    }
    assert_eq!(publications.current().unwrap().number, 9);
    assert_eq!(answering(&publications, 10), Vec::from_iter(0..10));
}

#[test]
fn at_least_three_generations_answer_after_it() {
    let publications = Publications::new(Period::new(GRACE));
    let start = Instant::now();
    for number in 0..6 {
        publications.publish(generation(number), start + GRACE * number as u32 * 2);
    }
    // The current one, and three before.
    assert_eq!(answering(&publications, 6), [2, 3, 4, 5]);
}

#[test]
fn what_comes_back_is_current_again() {
    let publications = Publications::new(Period::new(GRACE));
    let start = Instant::now();
    for number in [0, 1, 0] {
        publications.publish(generation(number), start);
    }
    assert_eq!(answering(&publications, 2), [0, 1]);
    assert!(lock(&publications).contains_key(&name(1)));
    assert!(!lock(&publications).contains_key(&name(0)));
}

#[test]
fn the_past_is_bounded() {
    let publications = Publications::new(Period::new(GRACE));
    let start = Instant::now();
    let many = Publications::MOST_PAST as u64 + 200;
    for number in 0..many {
        publications.publish(generation(number), start + Duration::from_millis(number));
    }
    let answering = answering(&publications, many);
    assert_eq!(answering.len(), Publications::MOST_PAST + 1);
    assert_eq!(answering.last(), Some(&(many - 1)));
}

fn lock(
    publications: &Publications,
) -> std::sync::MutexGuard<'_, HashMap<Resource<'static>, Past>> {
    publications.past.lock().unwrap()
}

#[tokio::test(start_paused = true)]
async fn who_asks_before_the_first_generation_waits_for_it() {
    let publications = Arc::new(Publications::new(Period::new(GRACE)));
    let waiting = Arc::clone(&publications);
    let waiting = tokio::spawn(async move { waiting.first().await.map(|it| it.number) });
    tokio::task::yield_now().await;
    publications.publish(generation(5), Instant::now());
    assert_eq!(waiting.await.unwrap(), Some(5));
    // And not for ever.
    assert!(
        Publications::new(Period::new(GRACE))
            .first()
            .await
            .is_none()
    );
}

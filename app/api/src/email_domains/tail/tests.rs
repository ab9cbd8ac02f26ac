use std::pin::pin;

use business::email_domains::{model::Changes, service::Events};
use foundation::telemetry::Metrics;
use futures_util::StreamExt;

use super::*;
use crate::stream::Streams;

fn tail() -> Arc<Tail> {
    Arc::new(Tail::register(&Metrics::new().unwrap()).unwrap())
}

fn name(text: &str) -> DomainName {
    DomainName::parse(text).unwrap()
}

fn wants(domain: Option<&str>, per_s: u16) -> TailQuery {
    TailQuery {
        domain: domain.map(name),
        per_s: per_s.try_into().unwrap(),
    }
}

fn deliver(tail: &Tail, domain: &str) {
    if let Some(telling) = tail.of_event(&name(domain), EventKind::Delivered, || 1.into()) {
        telling.tell(TailOutcome::Counted);
    }
}

fn watching(tail: &Arc<Tail>, wants: TailQuery) -> impl Stream<Item = Bytes> + use<> {
    let open = Streams::register(&Metrics::new().unwrap())
        .unwrap()
        .open()
        .unwrap();
    watch(Arc::clone(tail), Readiness::default(), wants, open)
}

#[tokio::test]
async fn who_watches_a_domain_sees_that_one_and_nobody_is_told_once_all_are_gone() {
    let tail = tail();
    assert!(
        tail.of_event(&name("a.example"), EventKind::Bounced, || 1.into())
            .is_none()
    );
    let one = watching(&tail, wants(Some("b.example"), 10));
    let all = watching(&tail, wants(None, 10));
    deliver(&tail, "a.example");
    deliver(&tail, "b.example");
    let (mut one, mut all) = (Box::pin(one), Box::pin(all));
    let told = one.next().await.unwrap();
    assert_eq!(
        told,
        "event: event\ndata: {\"at\":\"1970-01-01T00:00:01Z\",\"domain\":\"b.example\",\
         \"delivered\":1,\"bounced\":0,\"outcome\":\"counted\"}\n\n"
    );
    for domain in ["a.example", "b.example"] {
        let told = all.next().await.unwrap();
        let told = std::str::from_utf8(&told).unwrap();
        assert!(told.contains(domain), "{told}");
    }
    drop((one, all));
    assert!(!tail.is_watched() && tail.watchers.read().is_empty());
}

/// How many events these messages show.
fn shown(told: &str) -> usize {
    told.matches("event: event\n").count()
}

/// How many events they say are left out, whenever a second was over.
fn skipped(told: &str) -> usize {
    let numbers = told.split("event: skipped\ndata: {\"events\":").skip(1);
    let number = |rest: &str| rest.split('}').next().unwrap().parse::<usize>().unwrap();
    numbers.map(number).sum()
}

#[tokio::test]
async fn what_is_left_out_is_told() {
    let tail = tail();
    let mut watched = pin!(watching(&tail, wants(None, 1)));
    // Whichever second each falls in.
    for _ in 0..5 {
        deliver(&tail, "a.example");
    }
    let mut told = String::new();
    while shown(&told) + skipped(&told) < 5 {
        told += std::str::from_utf8(&watched.next().await.unwrap()).unwrap();
    }
    assert!((1..=2).contains(&shown(&told)), "{told}");
    assert_eq!(shown(&told) + skipped(&told), 5, "{told}");
}

#[tokio::test]
async fn who_reads_nothing_gets_what_waits_is_told_so_and_dropped() {
    let tail = tail();
    let mut watched = pin!(watching(&tail, wants(None, 1_000)));
    let watcher = Arc::clone(&tail.watchers.read()[0]);
    let began = Instant::now();
    while !watcher.dropped.load(Ordering::Relaxed) {
        assert!(began.elapsed() < Duration::from_secs(60));
        deliver(&tail, "a.example");
    }
    let mut events = 0;
    let last = loop {
        let told = watched.next().await.unwrap();
        if !told.starts_with(b"event: event\n") {
            break told;
        }
        events += 1;
        // It goes on: what it has lost is not covered up by what comes.
        deliver(&tail, "a.example");
    };
    assert_eq!(events, QUEUE);
    assert!(last.starts_with(b"event: dropped\n"), "{last:?}");
    assert_eq!(tail.dropped.get(), 1);
    assert_eq!(watched.next().await, None);
}

#[tokio::test]
async fn of_a_bulk_request_the_first_domains_are_told_and_those_asked_for() {
    let tail = tail();
    let mut one = pin!(watching(&tail, wants(Some("d150.example"), 10)));
    let mut all = pin!(watching(&tail, wants(None, 1_000)));
    let mut changes = Changes::default();
    for number in (0..200).chain([150, 0]) {
        changes.push(name(&format!("d{number}.example")).borrowed(), 2, 1);
    }
    let sent = Sent::Together(changes, None);
    tail.of_bulk(&sent, || 1.into())
        .unwrap()
        .tell(TailOutcome::Mixed);
    let told = one.next().await.unwrap();
    let told = std::str::from_utf8(&told).unwrap();
    assert!(
        told.contains("d150.example\",\"delivered\":4,\"bounced\":2,\"outcome\":\"mixed\""),
        "{told}"
    );
    let mut told = String::new();
    while shown(&told) <= DOMAINS_TOLD || skipped(&told) < 297 {
        told += std::str::from_utf8(&all.next().await.unwrap()).unwrap();
    }
    assert_eq!((shown(&told), skipped(&told)), (DOMAINS_TOLD + 1, 297));
}

#[tokio::test]
async fn what_is_never_answered_has_failed() {
    let tail = tail();
    let mut watched = pin!(watching(&tail, wants(None, 10)));
    drop(tail.of_event(&name("a.example"), EventKind::Bounced, || 1.into()));
    let told = watched.next().await.unwrap();
    assert!(std::str::from_utf8(&told).unwrap().contains("\"failed\""));
}

#[test]
fn a_request_has_one_outcome_if_all_of_it_has() {
    let some = Events {
        delivered: 1,
        bounced: 0,
    };
    let none = Events::default();
    for (counted, duplicates, spooled, outcome) in [
        (some, none, none, TailOutcome::Counted),
        (none, some, none, TailOutcome::Duplicate),
        (none, none, some, TailOutcome::Spooled),
        (some, some, none, TailOutcome::Mixed),
    ] {
        let receipt = Receipt {
            counted,
            duplicates,
            spooled,
        };
        assert_eq!(TailOutcome::of(&receipt), outcome);
    }
}

#[tokio::test]
async fn a_server_that_stops_ends_it() {
    let tail = tail();
    let readiness = Readiness::default();
    let open = Streams::register(&Metrics::new().unwrap())
        .unwrap()
        .open()
        .unwrap();
    let mut watched = pin!(watch(
        Arc::clone(&tail),
        readiness.clone(),
        wants(None, 1),
        open
    ));
    readiness.drain();
    assert_eq!(watched.next().await, None);
}

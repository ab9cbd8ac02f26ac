//! Random weather, lives and keys: each group counts once if it was acknowledged, and at most once
//! if not.

use std::{collections::HashMap, sync::Arc};

use business::{
    email_domains::{model::Outcome, ports::DomainTallies},
    kernel::ErrorKind,
};
use parking_lot::Mutex;
use prometheus::Registry;

use super::rig::{OPTIONS, Store, Weather, drained, event, group, mark, open, open_shown};

const LIVES: u64 = 4;
const WRITERS: u64 = 4;
const GROUPS: u64 = 40;
const KEYS: u128 = 30;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_weather_what_is_acknowledged_counts_once() {
    let fresh = fastrand::u64(..);
    for seed in [1, 2, 3, fresh] {
        run(seed).await;
    }
}

async fn run(seed: u64) {
    let (store, folder) = (Store::new(1), tempfile::tempdir().unwrap());
    // What each domain was answered: by key for those with one, else one domain a group.
    let acknowledged: Arc<Mutex<HashMap<String, bool>>> = Arc::default();
    for life in 0..LIVES {
        let registry = Registry::new();
        let spooled = open_shown(&store, &folder, OPTIONS, &registry).await;
        let spooled = Arc::new(spooled.unwrap());
        let writers: Vec<_> = (0..WRITERS)
            .map(|number| {
                let mut random = fastrand::Rng::with_seed(seed ^ (life << 32) ^ number);
                let (store, spooled) = (Arc::clone(&store), Arc::clone(&spooled));
                let acknowledged = Arc::clone(&acknowledged);
                tokio::spawn(async move {
                    for sequence in 1..=GROUPS {
                        if random.f32() < 0.1 {
                            store.set(weather(&mut random));
                        }
                        if random.f32() < 0.02 {
                            store.deliver().await;
                        }
                        let writer = u128::from(life * WRITERS + number);
                        let (domain, mark) = if random.bool() {
                            let key = random.u128(..KEYS);
                            (format!("key{key}.example"), mark(key, None))
                        } else {
                            (format!("d{writer}-{sequence}.example"), None)
                        };
                        let group = group(writer, sequence, [event(&domain, mark)]);
                        let counts = match spooled.record(&group).await {
                            Ok(recorded) => recorded.outcomes.iter().all(|outcome| {
                                let fine = [Outcome::Counted, Outcome::Duplicate, Outcome::Spooled];
                                fine.contains(outcome)
                            }),
                            Err(_) => false,
                        };
                        *acknowledged.lock().entry(domain).or_default() |= counts;
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
        if life % 2 == 0 {
            spooled.close().await;
        }
        store.set(Weather::Up);
        if life % 2 == 1 {
            drained(&spooled).await;
            spooled.close().await;
        }
        assert_balanced(&registry);
        drop(spooled);
    }
    let spooled = open(&store, &folder).await;
    drained(&spooled).await;
    store.deliver().await;
    let acknowledged = std::mem::take(&mut *acknowledged.lock());
    for (domain, acknowledged) in acknowledged {
        let (delivered, _) = store.counts(&domain).await;
        let right = delivered == 1 || (delivered == 0 && !acknowledged);
        assert!(
            right,
            "seed {seed}: {domain} counts {delivered}, acknowledged {acknowledged}"
        );
    }
    assert!(store.all().await.delivered > 0);
}

/// What came into the spool, and what it held at the start, has left it or waits: once each, though
/// segments are settled again and again in such a weather.
fn assert_balanced(registry: &Registry) {
    let families = registry.gather();
    let sum = |name: &str| {
        let family = families.iter().find(|family| family.name() == name);
        let values = family.unwrap().get_metric().iter();
        values
            .map(|metric| metric.get_counter().get_value() + metric.get_gauge().get_value())
            .sum::<f64>()
    };
    let came = sum("catchall_spooled_events_total") + sum("catchall_spool_recovered_events_total");
    let left = sum("catchall_spool_drained_events_total");
    assert!((came - left - sum("catchall_spool_events")).abs() < 0.5);
    assert!((left - sum("catchall_store_events_total")).abs() < 0.5);
}

fn weather(random: &mut fastrand::Rng) -> Weather {
    match random.u8(..11) {
        0..5 => Weather::Up,
        5 => Weather::Frozen,
        10 => Weather::LateAfter(0),
        6 => Weather::Silent,
        7 => Weather::Down(ErrorKind::Ambiguous),
        8 => Weather::Down(ErrorKind::Overloaded),
        _ => Weather::Down(ErrorKind::Unavailable),
    }
}

//! How long it takes to encode a record of the journal. `make bench-functions` runs it.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a benchmark fails by panicking"
)]

use std::hint::black_box;

use adapters::email_domains::embedded::bench::Journalled;
use business::email_domains::model::{DomainName, FoldedChange};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn encode_a_record(criterion: &mut Criterion) {
    let names: Vec<_> = (0..10_000)
        .map(|number| DomainName::parse(&format!("{number:014}.com")).unwrap())
        .collect();
    let mut group = criterion.benchmark_group("encode a record");
    for changes in [1, 64, 1_000, 10_000] {
        let folded = names[..changes]
            .iter()
            .map(|name| FoldedChange {
                domain: name.borrowed(),
                delivered: 1,
                bounced: 0,
            })
            .collect();
        let record = Journalled::new(folded);
        let mut bytes = Vec::new();
        group.throughput(Throughput::Elements(changes as u64));
        group.bench_function(format!("{changes} changes"), |bencher| {
            bencher.iter(|| {
                bytes.clear();
                record.encode(&mut bytes).unwrap();
                black_box(&bytes);
            });
        });
    }
    group.finish();
}

criterion_group!(functions, encode_a_record);
criterion_main!(functions);

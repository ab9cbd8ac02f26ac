//! How long the hot pure functions of the rules take. `make bench-functions` runs it.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a benchmark fails by panicking"
)]

use std::{hint::black_box, sync::Arc};

use business::{
    email_domains::model::{Changes, DomainName, EventKind, Member, fold, resolve_marks},
    kernel::UnixSeconds,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn parse_a_name(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse a name");
    for (kind, text) in [
        ("plain", "xymwdlknfhyshh.io"),
        ("upper case", "sYDXUijUwJMfVy.net"),
        ("international", "bücher.example"),
    ] {
        group.bench_function(kind, |bencher| {
            bencher.iter(|| DomainName::parse(black_box(text)).unwrap());
        });
    }
    group.finish();
}

/// Groups of single events, as they come in one by one, and of one bulk request.
fn fold_a_group(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fold a group");
    for (kind, members) in [
        ("64 single events", members(64, 1)),
        ("a request of 1,000", members(1, 1_000)),
        ("4 requests of 10,000", members(4, 10_000)),
    ] {
        let events: usize = members.iter().map(|member| member.changes.len()).sum();
        let outcomes = resolve_marks(&members, UnixSeconds::ZERO, |_| None);
        group.throughput(Throughput::Elements(events as u64));
        group.bench_function(kind, |bencher| {
            bencher.iter(|| fold(black_box(&members), &outcomes));
        });
    }
    group.finish();
}

/// Members of so many events each, all of different domains in no order.
fn members(members: u64, events: u64) -> Vec<Arc<Member>> {
    (0..members)
        .map(|member| {
            let mut changes = Changes::default();
            for event in 0..events {
                let mixed = (member * events + event + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let name = format!("{:014x}.com", mixed >> 8);
                changes.parse_push(&name, EventKind::Delivered).unwrap();
            }
            Arc::new(Member {
                mark: None,
                changes,
            })
        })
        .collect()
}

criterion_group!(functions, parse_a_name, fold_a_group);
criterion_main!(functions);

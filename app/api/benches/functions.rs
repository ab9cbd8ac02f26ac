//! How long it takes to parse the lines of a bulk request. `make bench-functions` runs it.

#![allow(missing_docs)]

use std::{fmt::Write as _, hint::black_box};

use api::bench::count_lines;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const LINES: usize = 1_000;

fn parse_a_line(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse a line");
    group.throughput(Throughput::Elements(LINES as u64));
    for (kind, before, after) in [
        (
            "canonical",
            r#"{"domain":""#,
            r#".com","type":"delivered"}"#,
        ),
        // An escape: the general parser has to look at it.
        (
            "general",
            r#"{"domain":""#,
            r#"\u002ecom","type":"delivered"}"#,
        ),
    ] {
        let mut body = String::new();
        for number in 0..LINES {
            // Writing to memory has no way to fail.
            writeln!(body, "{before}{number:014}{after}").ok();
        }
        assert_eq!(count_lines(body.as_bytes()), LINES, "{kind}");
        group.bench_function(kind, |bencher| {
            bencher.iter(|| count_lines(black_box(body.as_bytes())));
        });
    }
    group.finish();
}

criterion_group!(functions, parse_a_line);
criterion_main!(functions);

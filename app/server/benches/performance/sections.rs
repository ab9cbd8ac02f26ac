//! The tables that are made of rows, and what is in them.

use crate::{
    client::Requests,
    controls::upsert,
    keys::Keys,
    options::Options,
    row::{EMBEDDED, Group, Load, Row, Section, Subject, Watched},
};

const TEN_THOUSAND: Keys = Keys::Uniform(10_000);
const MILLION: Keys = Keys::Uniform(1_000_000);
const TEN_MILLION: Keys = Keys::Uniform(10_000_000);

const fn delayed(delay_ms: u32) -> Subject {
    Subject::Embedded {
        delay_us: 1_000 * delay_ms,
    }
}

/// All of them, in the order in which they are measured.
pub(crate) fn all() -> Vec<Section> {
    vec![
        puts(),
        keyed(),
        shadowed(),
        watched(),
        pipelined(),
        bulk(),
        reads(),
        mixed(),
    ]
}

impl Section {
    /// What of it is asked for: with each row go its controls.
    pub(crate) fn select(mut self, options: &Options) -> Option<Self> {
        for group in &mut self.groups {
            let wanted: Vec<_> = group
                .iter()
                .filter(|row| options.selects(&row.id))
                .flat_map(|row| row.against.iter().chain([&row.id]))
                .cloned()
                .collect();
            group.retain(|row| wanted.contains(&row.id));
        }
        self.groups.retain(|group| !group.is_empty());
        (!self.groups.is_empty()).then_some(self)
    }
}

fn puts() -> Section {
    let row = |subject: Subject, connections: u32, keys: Keys| Row {
        id: format!("put/{subject}/{connections}/{keys}"),
        subject,
        keys,
        load: Load::Puts { connections },
        against: Vec::new(),
    };
    // Each beside the bare server; PostgreSQL also beside the reference, many domains also beside
    // few.
    let group = |connections, keys, subjects: &[Subject], few: bool| -> Group {
        let id = |subject, keys| row(subject, connections, keys).id;
        let (bare, reference) = (id(Subject::Bare, keys), id(Subject::Reference, keys));
        let mut group = vec![row(Subject::Bare, connections, keys)];
        let beside = Row {
            id: format!("put/embedded/{connections}/10k-beside-{keys}"),
            ..row(EMBEDDED, connections, TEN_THOUSAND)
        };
        if few {
            group.push(beside.clone());
        }
        for subject in subjects {
            group.push(row(*subject, connections, keys));
        }
        for row in &mut group[1..] {
            row.against.push(bare.clone());
            if row.subject == Subject::Postgres && subjects.contains(&Subject::Reference) {
                row.against.push(reference.clone());
            }
            if few && row.keys != TEN_THOUSAND {
                row.against.push(beside.id.clone());
            }
        }
        group
    };
    let mut groups = Vec::new();
    for connections in [64, 256] {
        let subjects = [
            Subject::Memory,
            EMBEDDED,
            delayed(1),
            delayed(5),
            Subject::Postgres,
            Subject::Reference,
        ];
        groups.push(group(connections, TEN_THOUSAND, &subjects, false));
    }
    groups.push(group(640, TEN_THOUSAND, &[EMBEDDED], false));
    for connections in [64, 256] {
        let stores = [Subject::Memory, EMBEDDED, Subject::Postgres];
        groups.push(group(connections, Keys::Stream, &stores, false));
        groups.push(group(connections, MILLION, &stores, false));
        groups.push(group(connections, TEN_MILLION, &[EMBEDDED], true));
    }
    Section {
        title: "Single PUTs",
        about: "One event a request, closed loop, from `create-events`: \
                `put/server/connections/domains`. `bare` is actix-web with the same routes and \
                workers, and no store. `reference` works as the reference does: over a pool of 50 \
                connections it SELECTs the row, then INSERTs or UPDATEs it, without a \
                transaction; its rate is of what it answers 2xx. `+1ms` adds as much to every \
                sync. Domains are uniform, all there before, or `stream`, the reference's own \
                events. CPU is that of the server and of PostgreSQL behind it, peak memory only \
                the server's."
            .into(),
        groups,
    }
}

fn keyed() -> Section {
    let group = |connections, subject| {
        let plain = Row {
            id: format!("keyed/{subject}/{connections}/10k-without"),
            subject,
            keys: TEN_THOUSAND,
            load: Load::Puts { connections },
            against: Vec::new(),
        };
        let again = Row {
            id: format!("keyed/{subject}/{connections}/10k-without-again"),
            against: vec![plain.id.clone()],
            ..plain.clone()
        };
        let keyed = Row {
            id: format!("keyed/{subject}/{connections}/10k"),
            load: Load::KeyedPuts { connections },
            against: vec![plain.id.clone()],
            ..plain.clone()
        };
        vec![plain, again, keyed]
    };
    let stores = [Subject::Memory, EMBEDDED, Subject::Postgres];
    let groups = [64, 256]
        .into_iter()
        .flat_map(|connections| stores.map(|store| group(connections, store)));
    Section {
        title: "Idempotency keys",
        about:
            "Single PUTs as above, each under a new key (UUIDv7), beside the same without keys, \
                which is measured twice: what those two differ by is noise. The server remembers \
                all keys of all rounds."
                .into(),
        groups: groups.collect(),
    }
}

fn shadowed() -> Section {
    let group = |connections| {
        let alone = Row {
            id: format!("shadow/embedded/{connections}/10k"),
            subject: EMBEDDED,
            keys: TEN_THOUSAND,
            load: Load::Puts { connections },
            against: Vec::new(),
        };
        let beside = |subject: Subject| Row {
            id: format!("shadow/{subject}/{connections}/10k"),
            subject,
            against: vec![alone.id.clone()],
            ..alone.clone()
        };
        let again = Row {
            id: format!("shadow/embedded-again/{connections}/10k"),
            ..beside(EMBEDDED)
        };
        // The queue as it is by default, soon full; and one that all runs together do not fill.
        let queues = [262_144, 8_000_000];
        let frozen = queues.map(|queue| beside(Subject::Shadowed { queue }));
        let [soon_full, never_full] = frozen;
        vec![alone.clone(), soon_full, never_full, again]
    };
    Section {
        title: "A frozen shadow",
        about: "Single PUTs to the embedded store as above: alone, with a shadow in a PostgreSQL that \
                is halted (SIGSTOP), and alone once more: what those two differ by is noise. The number \
                is how many events may wait for the shadow. The smaller one is the default, and full \
                during the first runs: then the shadow is out of step. The larger one goes on filling \
                in all of them, which shows in the peak memory."
            .into(),
        groups: [64, 256].map(group).into(),
    }
}

fn watched() -> Section {
    let group = |connections| {
        let row = |watched, more: &str| Row {
            id: format!(
                "watched/{}{more}/{connections}/10k",
                Subject::Watched(watched)
            ),
            subject: Subject::Watched(watched),
            keys: TEN_THOUSAND,
            load: Load::Puts { connections },
            against: Vec::new(),
        };
        let off = row(Watched::Off, "");
        let others = [
            row(Watched::Off, "-again"),
            row(Watched::Metrics, ""),
            row(Watched::MetricsAndTraces, ""),
        ];
        let others = others.map(|other| Row {
            against: vec![off.id.clone()],
            ..other
        });
        std::iter::once(off.clone()).chain(others).collect()
    };
    Section {
        title: "What it costs to be watched",
        about: "Single PUTs to the embedded store as above, each run to a new server and store, and eight \
                times as many of them. `off` is catchall built against a `prometheus` whose counters and \
                histograms stay as they are, and without spans; it still reads the clocks that some of \
                them are fed from. It is measured twice: what those two differ by is noise. `metrics` is \
                catchall as it comes. The last is also scraped every 5 s, and traces a hundredth of the \
                requests, for a collector (Rotel) on the same cores. Nobody reads the tail."
            .into(),
        groups: [64, 256].map(group).into(),
    }
}

fn pipelined() -> Section {
    let requests = Requests {
        connections: 64,
        depth: 16,
        reads: 0.0,
    };
    let subjects = [Subject::Memory, EMBEDDED, delayed(1)];
    Section {
        title: "Pipelined PUTs",
        about: "64 connections, each with 16 requests in one write, then their 16 answers; a \
                latency is that of all 16. 10,000 uniform domains. From the bench's own client, \
                as all tables below that are not of bulk."
            .into(),
        groups: vec![beside_bare("pipelined", requests, TEN_THOUSAND, &subjects)],
    }
}

fn reads() -> Section {
    let requests = Requests {
        connections: 64,
        depth: 1,
        reads: 1.0,
    };
    let stores = [Subject::Memory, EMBEDDED, Subject::Postgres];
    let hot = beside_bare("read", requests, TEN_THOUSAND, &stores);
    let mut cold = beside_bare(
        "read",
        requests,
        MILLION,
        &[Subject::Memory, Subject::Postgres],
    );
    cold.push(Row {
        id: "read/embedded/10M".into(),
        subject: EMBEDDED,
        keys: TEN_MILLION,
        load: Load::Requests(requests),
        against: vec![cold[0].id.clone()],
    });
    Section {
        title: "Reads",
        about: "GET of a verdict, 64 connections, closed loop: hot, one of 10,000 stored domains, \
                and cold, one of a million or of ten."
            .into(),
        groups: vec![hot, cold],
    }
}

fn mixed() -> Section {
    let requests = Requests {
        connections: 64,
        depth: 1,
        reads: 0.1,
    };
    let stores = [Subject::Memory, EMBEDDED, Subject::Postgres];
    Section {
        title: "Mixed",
        about: "90 % PUTs of an event, 10 % GETs of a verdict, at random, over 10,000 uniform \
                domains; 64 connections, closed loop."
            .into(),
        groups: vec![beside_bare("mixed", requests, TEN_THOUSAND, &stores)],
    }
}

/// Rows of the bench's own client, each beside the bare server.
fn beside_bare(name: &str, requests: Requests, keys: Keys, subjects: &[Subject]) -> Group {
    let row = |subject: Subject, against: Vec<String>| Row {
        id: format!("{name}/{subject}/{keys}"),
        subject,
        keys,
        load: Load::Requests(requests),
        against,
    };
    let bare = row(Subject::Bare, Vec::new());
    let others = subjects
        .iter()
        .map(|subject| row(*subject, vec![bare.id.clone()]));
    std::iter::once(bare.clone()).chain(others).collect()
}

/// With more, requests only wait for each other.
const BULK_CONNECTIONS: u32 = 4;

fn bulk() -> Section {
    let row = |subject: Subject, batch: u32, keys: Keys| Row {
        id: format!("bulk/{subject}/{batch}/{keys}"),
        subject,
        keys,
        load: Load::Bulk {
            batch,
            connections: BULK_CONNECTIONS,
        },
        against: Vec::new(),
    };
    // The first of a group is the control of the others.
    let group = |batch, rows: &[(Subject, Keys)]| -> Group {
        let control = row(rows[0].0, batch, rows[0].1);
        let others = rows[1..].iter().map(|(subject, keys)| Row {
            against: vec![control.id.clone()],
            ..row(*subject, batch, *keys)
        });
        std::iter::once(control.clone()).chain(others).collect()
    };
    let (log, raw) = (Subject::LogAndMap, Subject::RawUpsert);
    let mut groups = Vec::new();
    for batch in [100, 1_000, 10_000] {
        for keys in [Keys::Stream, MILLION] {
            let rows = [(log, keys), (EMBEDDED, keys), (Subject::Memory, keys)];
            groups.push(group(batch, &rows));
        }
        groups.push(group(batch, &[(log, TEN_MILLION), (EMBEDDED, TEN_MILLION)]));
    }
    for batch in [100, 1_000, 10_000] {
        let stream = (Subject::Postgres, Keys::Stream);
        let million = [(raw, MILLION), (Subject::Postgres, MILLION)];
        let ten = [(raw, TEN_MILLION), (Subject::Postgres, TEN_MILLION), stream];
        if batch == 100 {
            groups.push(group(batch, &[million[0], million[1], stream]));
        } else {
            groups.push(group(batch, &million));
            groups.push(group(batch, &ten));
        }
    }
    Section {
        title: "Bulk",
        about: format!(
            "So many events a request as NDJSON, from `create-events` over {BULK_CONNECTIONS} \
             connections, closed loop: `bulk/server/events a request/domains`. `log-and-map` is \
             the least a durable store can do, in one thread without HTTP: append the batch, \
             sync, add to a hash map. `raw-upsert` is the bulk statement of PostgreSQL alone, \
             INSERT … SELECT FROM unnest … ON CONFLICT DO UPDATE, from {} connections; its \
             latency is that of a statement.",
            upsert::CONNECTIONS,
        ),
        groups,
    }
}

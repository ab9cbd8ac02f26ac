//! The tables that are made of rows, and what is in them.

use crate::{
    keys::Keys,
    options::Options,
    row::{EMBEDDED, Group, Load, Row, Section, Subject},
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
    vec![puts()]
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
                events."
            .into(),
        groups,
    }
}

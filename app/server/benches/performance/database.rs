//! The private PostgreSQL, and tables that are filled past any server.

use std::{io::Write as _, process::Stdio};

use anyhow::{Context as _, ensure};
use foundation::testing::Postgres;

use crate::keys::Name;

/// Stock but for what is named here.
const SETTINGS: [&str; 0] = [];

pub(crate) struct Database {
    postgres: Postgres,
}

impl Database {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let postgres = Postgres::start_with(&SETTINGS);
        for setting in ["fsync", "synchronous_commit", "full_page_writes"] {
            let value = postgres.query(&postgres.url("postgres"), &format!("SHOW {setting}"));
            ensure!(
                value == "on",
                "{setting} is {value}: PostgreSQL is not durable"
            );
        }
        Ok(Self { postgres })
    }

    /// What it is, for the report.
    pub(crate) fn describe(&self) -> String {
        let url = self.postgres.url("postgres");
        let show = |name| self.postgres.query(&url, &format!("SHOW {name}"));
        format!(
            "PostgreSQL {}, shared_buffers {}, max_wal_size {}; fsync, synchronous_commit and \
             full_page_writes on.",
            show("server_version"),
            show("shared_buffers"),
            show("max_wal_size"),
        )
    }

    pub(crate) fn postmaster(&self) -> Option<u32> {
        self.postgres.pid()
    }

    /// From now on it answers nobody.
    pub(crate) fn freeze(&self) {
        self.postgres.freeze();
    }

    pub(crate) fn create(&self) -> String {
        self.postgres.create_database()
    }

    pub(crate) fn query(&self, url: &str, sql: &str) -> String {
        self.postgres.query(url, sql)
    }

    /// Puts all domains of a uniform set into a table, delivered once each. `fixed` are further
    /// columns with their values. The primary key comes last: row by row it would take minutes.
    pub(crate) fn fill(
        &self,
        url: &str,
        table: &str,
        domains: u32,
        fixed: &[(&str, &str)],
    ) -> anyhow::Result<()> {
        self.query(
            url,
            &format!("ALTER TABLE {table} DROP CONSTRAINT {table}_pkey"),
        );
        for (column, value) in fixed {
            self.query(
                url,
                &format!("ALTER TABLE {table} ALTER {column} SET DEFAULT {value}"),
            );
        }
        let mut psql = self
            .postgres
            .psql(url)
            .args(["-c", &format!("COPY {table} (domain) FROM STDIN")])
            .stdin(Stdio::piped())
            .spawn()?;
        let mut rows = std::io::BufWriter::new(psql.stdin.take().context("no stdin")?);
        for index in 0..domains {
            rows.write_all(Name::derived(index).as_bytes())?;
            rows.write_all(b"\n")?;
        }
        drop(rows.into_inner()?);
        ensure!(psql.wait()?.success(), "COPY into {table} failed");
        for (column, _) in fixed {
            self.query(
                url,
                &format!("ALTER TABLE {table} ALTER {column} DROP DEFAULT"),
            );
        }
        self.query(
            url,
            &format!("ALTER TABLE {table} ADD PRIMARY KEY (domain)"),
        );
        self.query(url, &format!("VACUUM ANALYZE {table}"));
        // Or the first runs would pay for it.
        self.query(url, "CHECKPOINT");
        Ok(())
    }
}

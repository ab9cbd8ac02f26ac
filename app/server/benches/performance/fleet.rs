//! The servers of a run, each started when it is first needed, with its domains preloaded.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
    rc::Rc,
};

use anyhow::{Context as _, ensure};
use foundation::testing::Rotel;

use crate::{
    controls::{log_and_map::LogAndMap, reference, upsert},
    database::Database,
    keys::Keys,
    row::{Subject, Watched},
    server::{self, Server},
    unwatched,
};

pub(crate) struct Fleet {
    /// Cargo's.
    target: PathBuf,
    folder: PathBuf,
    servers: HashMap<(Subject, Keys), Rc<Server>>,
    logs: HashMap<Keys, Rc<RefCell<LogAndMap>>>,
    database: Option<Database>,
    /// Those behind frozen shadows.
    frozen: Vec<Database>,
    /// What traces are sent to.
    collector: Option<Rotel>,
    /// How long its log was when the last server that it serves was begun.
    collector_log: usize,
    /// catchall, built so that it counts nothing.
    unwatched: Option<PathBuf>,
    /// The URLs of databases, with what is in them.
    databases: HashMap<(Subject, Keys), String>,
    /// Data folders that have their domains.
    filled: HashSet<PathBuf>,
}

impl Fleet {
    /// All data goes into `folder`.
    pub(crate) fn new(target: &Path, folder: PathBuf) -> Self {
        Self {
            target: target.to_owned(),
            folder,
            servers: HashMap::new(),
            logs: HashMap::new(),
            database: None,
            frozen: Vec::new(),
            collector: None,
            collector_log: 0,
            unwatched: None,
            databases: HashMap::new(),
            filled: HashSet::new(),
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Ends all servers. What they stored stays.
    pub(crate) fn release(&mut self) {
        self.servers.clear();
        self.frozen.clear();
        self.collector = None;
        self.logs.clear();
    }

    /// The server of a subject, running, with the domains of `keys`.
    pub(crate) fn server(&mut self, subject: Subject, keys: Keys) -> anyhow::Result<Rc<Server>> {
        // A server without a store has no domains.
        let keys = if subject == Subject::Bare {
            Keys::Stream
        } else {
            keys
        };
        if let Some(server) = self.servers.get(&(subject, keys)) {
            return Ok(Rc::clone(server));
        }
        let server = match subject {
            Subject::Bare => Server::control(&["bare"], None)?,
            Subject::Reference => {
                let url = self.database_url(subject, keys)?;
                Server::control(&["reference", &url], self.database()?.postmaster())?
            }
            Subject::Memory => {
                let server = Server::catchall(&[kind("memory")], None)?;
                preload(&server, keys)?;
                server
            }
            Subject::Embedded { .. } => {
                let folder = self.data_folder(subject, keys);
                let server = Server::catchall(&embedded(subject, &folder), None)?;
                if self.filled.insert(folder) {
                    preload(&server, keys)?;
                }
                server
            }
            Subject::Shadowed { queue } => {
                let folder = self.data_folder(subject, keys);
                let database = Database::start()?;
                let mut settings = embedded(subject, &folder);
                settings.extend([
                    ("CATCHALL__STORE__SHADOW__KIND", "postgres".to_owned()),
                    ("CATCHALL__STORE__SHADOW__QUEUE_CAPACITY", queue.to_string()),
                    ("CATCHALL__STORE__POSTGRES__URL", database.create()),
                ]);
                let server = Server::catchall(&settings, None)?;
                preload(&server, keys)?;
                ensure!(
                    server.metric("catchall_shadow_in_step")? == 1.0,
                    "the shadow is out of step before it is frozen"
                );
                database.freeze();
                self.frozen.push(database);
                server
            }
            Subject::Watched(watched) => {
                let folder = self.data_folder(subject, keys);
                self.watched(watched, keys, &embedded(subject, &folder))?
            }
            Subject::Postgres => {
                let url = self.database_url(subject, keys)?;
                let postmaster = self.database()?.postmaster();
                let url = ("CATCHALL__STORE__POSTGRES__URL", url);
                Server::catchall(&[kind("postgres"), url], postmaster)?
            }
            Subject::RawUpsert | Subject::LogAndMap => anyhow::bail!("{subject} is no server"),
        };
        let server = Rc::new(server);
        self.servers.insert((subject, keys), Rc::clone(&server));
        Ok(server)
    }

    /// Another server of a subject, on another store.
    pub(crate) fn server_anew(
        &mut self,
        subject: Subject,
        keys: Keys,
    ) -> anyhow::Result<Rc<Server>> {
        self.servers.remove(&(subject, keys));
        let folder = self.data_folder(subject, keys);
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        self.server(subject, keys)
    }

    fn watched(
        &mut self,
        watched: Watched,
        keys: Keys,
        settings: &[(&'static str, String)],
    ) -> anyhow::Result<Server> {
        let mut settings = settings.to_vec();
        let server = match watched {
            Watched::Off => {
                let program = match &self.unwatched {
                    Some(program) => program,
                    None => self.unwatched.insert(unwatched::build(&self.target)?),
                };
                Server::program(program, &settings, None)?
            }
            Watched::Metrics => Server::catchall(&settings, None)?,
            Watched::MetricsAndTraces => {
                let program = self.target.join("rotel/bin/rotel-agent");
                let collector = self
                    .collector
                    .get_or_insert_with(|| Rotel::start(&program, None));
                self.collector_log = collector.log().len();
                settings.extend([
                    ("CATCHALL__TELEMETRY__TRACES__ENDPOINT", collector.url()),
                    (
                        "CATCHALL__TELEMETRY__TRACES__SAMPLE_RATIO",
                        "0.01".to_owned(),
                    ),
                ]);
                let server = Server::catchall(&settings, None)?;
                server.scrape()?;
                server
            }
        };
        preload(&server, keys)?;
        let counts = server.metric("catchall_group_requests_count")? > 0.0;
        ensure!(
            counts == (watched != Watched::Off),
            "metrics that do not count, or those that should not"
        );
        Ok(server)
    }

    /// Whether what the last server sent to the collector got there.
    pub(crate) fn has_collected(&self) -> bool {
        let log = self.collector.as_ref().map(|collector| collector.log());
        let of_the_last = log.as_ref().and_then(|log| log.get(self.collector_log..));
        of_the_last.is_some_and(|log| log.contains("Received traces"))
    }

    /// Where an embedded store is kept.
    pub(crate) fn data_folder(&self, subject: Subject, keys: Keys) -> PathBuf {
        self.folder.join(format!("{subject}-{keys}"))
    }

    pub(crate) fn log(&mut self, keys: Keys) -> Rc<RefCell<LogAndMap>> {
        let log = || Rc::new(RefCell::new(LogAndMap::new(keys)));
        Rc::clone(self.logs.entry(keys).or_insert_with(log))
    }

    /// The database of a subject, with the domains of `keys`.
    pub(crate) fn database_url(&mut self, subject: Subject, keys: Keys) -> anyhow::Result<String> {
        if let Some(url) = self.databases.get(&(subject, keys)) {
            return Ok(url.clone());
        }
        let database = self.database()?;
        let url = database.create();
        let counts = [("delivered", "1"), ("bounced", "0")];
        match (subject, keys) {
            (Subject::Postgres, Keys::Uniform(domains)) => {
                // It makes the tables, which are then filled as the raw one is.
                let postgres = ("CATCHALL__STORE__POSTGRES__URL", url.clone());
                drop(Server::catchall(&[kind("postgres"), postgres], None)?);
                let others = [("first_seen", "0"), ("last_seen", "0"), ("turn", "0")];
                let fixed = [&counts[..], &others].concat();
                database.fill(&url, "domain_tallies", domains, &fixed)?;
                // The totals that the server would have kept.
                let totals = format!(
                    "INSERT INTO writer_totals
                     (writer, delivered, bounced, domains, catch_all, not_catch_all)
                     VALUES (gen_random_uuid(), {domains}, 0, {domains}, 0, 0)"
                );
                database.query(&url, &totals);
            }
            (Subject::Reference | Subject::RawUpsert, _) => {
                let (table, sql) = if subject == Subject::Reference {
                    ("domains", reference::TABLE)
                } else {
                    ("raw", upsert::TABLE)
                };
                database.query(&url, sql);
                if let Keys::Uniform(domains) = keys {
                    database.fill(&url, table, domains, &counts)?;
                }
            }
            _ => {}
        }
        self.databases.insert((subject, keys), url.clone());
        Ok(url)
    }

    /// The one PostgreSQL of this run.
    pub(crate) fn database(&mut self) -> anyhow::Result<&Database> {
        if self.database.is_none() {
            self.database = Some(Database::start()?);
        }
        self.database.as_ref().context("just started")
    }

    /// What PostgreSQL was used, if it was.
    pub(crate) fn describe_database(&self) -> Option<String> {
        self.database.as_ref().map(Database::describe)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.release();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn kind(kind: &str) -> (&'static str, String) {
    ("CATCHALL__STORE__KIND", kind.to_owned())
}

/// The settings of an embedded store in a folder.
pub(crate) fn embedded(subject: Subject, folder: &Path) -> Vec<(&'static str, String)> {
    let path = folder.to_string_lossy().into_owned();
    let mut settings = vec![kind("embedded"), ("CATCHALL__STORE__EMBEDDED__PATH", path)];
    if let Subject::Embedded {
        delay_us: delay_us @ 1..,
    } = subject
    {
        let name = "CATCHALL__STORE__EMBEDDED__ADDED_SYNC_DELAY_US";
        settings.push((name, delay_us.to_string()));
    }
    settings
}

/// Sends every domain of a uniform set once.
fn preload(server: &Server, keys: Keys) -> anyhow::Result<()> {
    let Keys::Uniform(domains) = keys else {
        return Ok(());
    };
    let flags = format!(
        "--in-order --domains {domains} --events {domains} --bulk 10000 --connections 4 \
         --bounce-rate 0"
    );
    let report = server::send(&server.url, &flags)?;
    ensure!(
        report["acknowledged"] == domains,
        "the preload failed: {report}"
    );
    Ok(())
}

//! The commands.

use std::{
    io::{Write, stderr, stdout},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::ensure;
use clap::{Args, Parser, Subcommand};
use foundation::limits;

use crate::{
    planted::{self, BUGS, Caught},
    power_loss::lose_power,
    report::Report,
    rows::{Amount, Findings, Ground, ROWS, Row},
};

/// Harms a server in every way we could think of, and holds what it says against what its clients know.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the rows, and then each planted bug into its trap.
    // The last one counts: `make torture` gives some, and ARGS others.
    #[command(args_override_self = true)]
    Run(Run),
    /// Only fail the power, in memory.
    PowerLoss {
        /// The first seed.
        #[arg(long)]
        seed: u64,
        /// How often.
        #[arg(long)]
        power_losses: u64,
        /// For how many seconds at most.
        #[arg(long = "within", value_name = "SECONDS", default_value_t = 3_600)]
        within_s: u64,
    },
}

#[derive(Args)]
struct Run {
    /// The program `catchall`.
    #[arg(long, value_name = "PROGRAM")]
    server: PathBuf,
    /// The program `torture-planted`.
    #[arg(long, value_name = "PROGRAM")]
    planted: PathBuf,
    /// What all that is random comes from; a fresh one if it is not given.
    #[arg(long)]
    seed: Option<u64>,
    /// How often the server is killed at random.
    #[arg(long, default_value_t = 20)]
    kills: u64,
    /// How often the power fails, in memory.
    #[arg(long, default_value_t = 1_000)]
    power_losses: u64,
    /// How often every other fault is done.
    #[arg(long, default_value_t = 2)]
    rounds: u64,
    /// For how many minutes to go on, with other seeds, once every row was run.
    #[arg(long = "for", value_name = "MINUTES", default_value_t = 0)]
    minutes: u64,
    /// Only the rows and bugs that have this in their names.
    #[arg(long, value_name = "PART")]
    only: Option<String>,
    /// Where to write what was found, as a page of the documentation.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    let ended = match Arguments::parse().command {
        Command::Run(run) => run.run(),
        Command::PowerLoss {
            seed,
            power_losses,
            within_s,
        } => {
            let ended = lose_power(seed, power_losses, Duration::from_secs(within_s));
            let (told, ended) = match ended {
                Ok(survived) => (format!("{survived:?}"), Ok(true)),
                Err(error) => (format!("{error:#}"), Ok(false)),
            };
            tell(&told);
            ended
        }
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(stderr(), "torture: {error:#}");
            ExitCode::from(2)
        }
    }
}

impl Run {
    /// Whether all promises were kept and all bugs caught.
    fn run(self) -> anyhow::Result<bool> {
        // A thousand clients have a connection each.
        limits::raise_open_files()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        let seed = self.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
        let ground = Ground {
            server: self.server.canonicalize()?,
            planted: self.planted.canonicalize()?,
            seed,
            amount: Amount {
                kills: self.kills,
                power_losses: self.power_losses,
                rounds: self.rounds,
            },
            bug: None,
        };
        let selected = ROWS.iter().map(|row| row.name);
        let mut selected = selected.chain(BUGS.iter().map(|bug| bug.name));
        ensure!(
            selected.any(|name| self.wants(name)),
            "no row and no bug is called so"
        );
        tell(&format!("seed {seed}"));
        let began = Instant::now();
        let mut report = Report::new(ROWS, seed);
        let mut sound = true;
        for row in ROWS.iter().filter(|row| self.wants(row.name)) {
            let found = runtime.block_on(row.on(&ground));
            sound &= self.note(row, found, ground.seed, &mut report);
        }
        for bug in BUGS.iter().filter(|bug| self.wants(bug.name)) {
            let caught = runtime.block_on(planted::catch(bug, &ground));
            sound &= caught.is_ok();
            tell(&told_of(bug.name, &caught));
            report.caught(bug, caught.ok());
        }
        let until = Duration::from_secs(60 * self.minutes);
        for round in 1.. {
            let rows = ROWS.iter().filter(|row| self.wants(row.name));
            for row in rows.take_while(|_| began.elapsed() < until) {
                let ground = Ground {
                    seed: seed.wrapping_add(round),
                    ..ground.clone()
                };
                let found = runtime.block_on(row.on(&ground));
                sound &= self.note(row, found, ground.seed, &mut report);
            }
            if began.elapsed() >= until {
                break;
            }
        }
        report.took = began.elapsed();
        tell(&report.summary());
        if let Some(file) = &self.report {
            std::fs::write(file, report.page())?;
        }
        Ok(sound)
    }

    fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|part| name.contains(part))
    }

    /// Tells what a row found, and whether all is well.
    fn note(
        &self,
        row: &Row,
        found: anyhow::Result<Findings>,
        seed: u64,
        report: &mut Report,
    ) -> bool {
        let mut findings = found.unwrap_or_else(|error| {
            let mut undone = Findings::default();
            undone.broken(format!("it could not be done: {error:#}"));
            undone
        });
        if findings.faults == 0 && findings.violations.is_empty() {
            findings.broken("there was no fault");
        }
        tell(&crate::report::line(row, &findings));
        for violation in findings.violations.iter().take(5) {
            tell(&format!("    {violation}"));
        }
        let sound = findings.violations.is_empty();
        report.add(row, findings);
        if !sound {
            tell(&format!(
                "  FAILED with seed {seed}. Again: torture run --server {} --planted {} --seed {seed} \
                 --kills {} --power-losses {} --rounds {} --only '{}'",
                self.server.display(),
                self.planted.display(),
                self.kills,
                self.power_losses,
                self.rounds,
                row.name
            ));
        }
        sound
    }
}

fn told_of(name: &str, caught: &anyhow::Result<Caught>) -> String {
    match caught {
        Ok((by, after)) => format!(
            "bug {name}: caught after {:.1} s: {by}",
            after.as_secs_f64()
        ),
        Err(error) => format!("bug {name}: NOT CAUGHT: {error:#}"),
    }
}

fn tell(line: &str) {
    // Should nobody read it, the exit code tells.
    let _ = writeln!(stdout(), "{line}");
}

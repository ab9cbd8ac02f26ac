//! What `/openapi.json` says holds for whatever is sent: Schemathesis makes requests of it, right ones
//! and wrong ones, and looks at every answer.

use std::{path::Path, process::Command};

use crate::support::Setup;

/// Put there by `scripts/test-dependencies.sh`.
const PROGRAM: &str = "../../target/schemathesis/bin/schemathesis";

#[test]
fn whatever_is_sent_every_answer_is_as_described() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = package.join(PROGRAM);
    assert!(
        program.exists(),
        "Schemathesis is missing: run scripts/test-dependencies.sh"
    );
    let folder = tempfile::tempdir().unwrap();
    let server = Setup::memory().start();
    let output = Command::new(program)
        .current_dir(folder.path())
        .env("PYTHONPATH", package.join("tests"))
        .env("SCHEMATHESIS_HOOKS", "schemathesis_hooks")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .args(["run", &format!("http://{}/openapi.json", server.address())])
        .args(["--phases", "examples,coverage,fuzzing,stateful"])
        .args(["--max-examples", "50", "--seed", "1"])
        .args(["--request-timeout", "60", "--suppress-health-check", "all"])
        .args(["--checks", "all", "--exclude-checks"])
        // A schema cannot say all that a domain name or a compressed body has to be; what is wrong may
        // be sent to be skipped; and a path may be of two routes, one with GET and one with POST.
        .arg("positive_data_acceptance,negative_data_rejection,allow_header_conformance")
        // These go on until somebody leaves.
        .args(["--exclude-path", "/v1/stats/live"])
        .args(["--exclude-path", "/v1/events/tail"])
        .args(["--continue-on-failure", "--no-color"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("Tested: 1"), "{said}");
    let log = server.stop();
    let failed: Vec<_> = log
        .iter()
        .filter(|line| line.contains("\"ERROR\""))
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

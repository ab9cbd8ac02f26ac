//! As many connections as the reference's load program opens.

use foundation::limits;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{Account, Connection, Kind, Setup, names};

const CONNECTIONS: usize = 10_000;
/// Connections that are opened at a time: fewer than wait to be accepted.
const AT_A_TIME: usize = 500;
/// Files beside the connections, of the tests that run at the same time too.
const OTHER_FILES: u64 = 1_000;

/// All are open before the first is used, in a server from a shell that allows 1,024 files.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_at_once_are_all_answered_and_counted() {
    let limit = limits::raise_open_files().unwrap().soft_now;
    let needed = CONNECTIONS as u64 + OTHER_FILES;
    assert!(
        limit >= needed,
        "this test, and the server it starts, each need {needed} open files, and the hard limit \
         is {limit}: raise it (`ulimit -H -n`, or --ulimit nofile in Docker)"
    );
    let folder = tempfile::tempdir().unwrap();
    let server = Setup::embedded(folder.path())
        .soft_open_files(1_024)
        .set("telemetry.logs.filter", "info,catchall=debug")
        .start();
    let raised = server
        .log()
        .iter()
        .any(|line| line.contains("soft_before: 1024"));
    assert!(raised, "it was not started with 1,024: {:#?}", server.log());

    let address = server.address();
    let mut connections = Vec::with_capacity(CONNECTIONS);
    while connections.len() < CONNECTIONS {
        let opening: JoinSet<_> = (0..AT_A_TIME).map(|_| Connection::open(address)).collect();
        for opened in opening.join_all().await {
            connections.push(opened.unwrap());
        }
    }

    let domains = names(1_000);
    let mut account = Account::new(&domains);
    let mut requests = JoinSet::new();
    for (n, mut connection) in connections.into_iter().enumerate() {
        let (domain, kind) = (n % domains.len(), Kind::ALL[n / domains.len() % 2]);
        account.acknowledge(domain, kind);
        let name = domains[domain].clone();
        requests.spawn(async move {
            let answer = connection.put(&name, kind).await.unwrap();
            assert_eq!(answer.status, 204, "{}", answer.text());
            connection
        });
    }
    // Kept to the end, so that no connection is used twice or makes room for another.
    let connections = requests.join_all().await;
    assert_eq!(connections.len(), CONNECTIONS);

    account.settle(&server).await;
    let stats = server.json("/v1/stats").await;
    let events: Value = json!({ "delivered": 5_000, "bounced": 5_000 });
    assert_eq!(stats["events"], events);
    drop(connections);
    server.stop();
}

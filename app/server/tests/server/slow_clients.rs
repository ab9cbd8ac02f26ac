//! Clients that send their heads byte by byte, beside honest ones.

use std::time::Duration;

use tokio::task::JoinSet;

use crate::support::{Connection, Job, Load, Setup, names};

const DRIPPING: usize = 1_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_dripping_connections_are_cut_and_honest_clients_are_served() {
    let server = Setup::memory().set("http.read_timeout_ms", 10_000).start();
    let address = server.address();
    let domains = names(50);
    let load = Load::start(address, 20, Job::Write, &domains);
    let mut dripping: JoinSet<()> = (0..DRIPPING)
        .map(|number| async move {
            let mut connection = Connection::open(address).await.unwrap();
            // Half of them with their first head, and half with their second.
            if number % 2 == 0 {
                assert_eq!(connection.get("/livez").await.status, 200);
            }
            let head = "PUT /v1/events/a.example/delivered HTTP/1.1\r\nHost: test\r\nX-Slow: ";
            let mut bytes = head.bytes().chain(std::iter::repeat(b'x'));
            while connection
                .send([bytes.next().unwrap_or(b'x')])
                .await
                .is_ok()
            {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
        .collect();
    load.go_on_for(500).await;
    // Each of them is cut, and none before the honest have gone on beside them.
    assert!(dripping.try_join_next().is_none());
    while let Some(cut) = dripping.join_next().await {
        cut.unwrap();
    }
    load.go_on_for(2_000).await;
    let mut account = load.finish().await;
    assert_eq!(account.unanswered(), 0, "an honest client was cut");
    account.settle(&server).await;
    server.stop();
}

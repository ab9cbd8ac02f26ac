//! A disk that somebody else fills.

use std::time::{Duration, Instant};

use torture::small_disk::SmallDisk;

use crate::support::{Account, DEADLINE, Kind, Setup, names, until};

const MIB: u64 = 1 << 20;

#[tokio::test]
async fn a_disk_that_is_nearly_full_takes_no_event_and_loses_none() {
    let disk = SmallDisk::new();
    let setup = Setup::embedded(&disk.data())
        .set("store.embedded.segment_bytes", MIB)
        .set("store.embedded.min_free_bytes", disk.min_free_bytes());
    let server = setup.start();
    let domains = names(1);
    let mut account = Account::new(&domains);
    let mut connection = server.connect().await;
    let answer = connection.put("d0.example", Kind::Delivered).await.unwrap();
    assert_eq!(answer.status, 204, "{answer:?}");
    account.acknowledge(0, Kind::Delivered);

    disk.fill();
    let filled = Instant::now();
    let refused = loop {
        assert!(filled.elapsed() < DEADLINE, "it goes on");
        let answer = connection.put("d0.example", Kind::Delivered).await.unwrap();
        if answer.status != 204 {
            break answer;
        }
        account.acknowledge(0, Kind::Delivered);
    };
    assert_eq!(refused.status, 503, "{refused:?}");
    assert_eq!(refused.field("retry-after"), Some("1"));
    assert_eq!(refused.json()["type"], "urn:catchall:problem:unavailable");
    let ready = server.get("/readyz").await;
    assert_eq!(ready.status, 503, "{ready:?}");
    let told = ready.text().to_owned();
    assert!(
        told.contains("no room to write, on its disk or in its spool"),
        "{told}"
    );
    assert_eq!(server.get("/livez").await.status, 200);
    account.settle(&server).await;

    disk.free();
    let freed = Instant::now();
    until("the server is ready", async || {
        server.get("/readyz").await.status == 200
    })
    .await;
    let answer = connection.put("d0.example", Kind::Bounced).await.unwrap();
    assert_eq!(answer.status, 204, "{answer:?}");
    assert!(freed.elapsed() < Duration::from_secs(5));
    account.acknowledge(0, Kind::Bounced);

    // Nor does it start on such a disk; and when it does, all is there.
    server.stop();
    disk.fill();
    let reason = setup.refused();
    assert!(reason.contains("min_free_bytes"), "{reason}");
    disk.free();
    let server = setup.start();
    account.settle(&server).await;
    server.stop();
}

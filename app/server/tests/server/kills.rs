//! `kill -9` in mid-load.

use crate::support::{Account, Job, Load, Setup, names};

/// Ten times over the same folder, with files so small that the kills hit new segments and
/// snapshots too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_after_each_of_ten_kills() {
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup::embedded(folder.path())
        .set("store.embedded.segment_bytes", 16_384)
        .set("store.embedded.snapshot_after_bytes", 65_536);
    let domains = names(100);
    let mut account = Account::new(&domains);
    let (mut acknowledged, mut unanswered) = (0, 0);
    for _ in 0..10 {
        let mut server = setup.start();
        account.settle(&server).await;
        let load = Load::start(server.address(), 40, Job::Write, &domains);
        load.go_on_for(fastrand::u64(200..5_000)).await;
        server.kill();
        let known = load.finish().await;
        acknowledged += known.acknowledged();
        unanswered += known.unanswered();
        account.add(&known);
    }
    let server = setup.start();
    account.settle(&server).await;
    server.stop();
    // It was in mid-load indeed: most of the 40 clients of each round waited for an answer.
    assert!(acknowledged >= 2_000, "{acknowledged}");
    assert!(unanswered >= 100, "{unanswered}");
}

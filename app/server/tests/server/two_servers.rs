//! Two servers on one PostgreSQL.

use std::thread;

use foundation::testing::Postgres;
use serde_json::json;

use crate::support::{Job, Kind, Load, Server, Setup, names};

/// On a database that has no tables yet, so that both of them migrate it.
fn start_two() -> [Server; 2] {
    let setup = Setup::postgres(&Postgres::shared().create_database());
    thread::scope(|scope| {
        [(), ()]
            .map(|()| scope.spawn(|| setup.start()))
            .map(|starting| starting.join().unwrap())
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_lose_nothing_and_count_nothing_twice() {
    let servers = start_two();
    // Few, so that both write the same rows all the time.
    let domains = names(12);
    let loads = [&servers[0], &servers[1]]
        .map(|server| Load::start(server.address(), 24, Job::Write, &domains));
    for load in &loads {
        load.go_on_for(2_500).await;
    }
    let [one, other] = loads.map(Load::finish);
    let (mut account, other) = (one.await, other.await);
    account.add(&other);
    assert!(account.acknowledged() >= 5_000);
    assert_eq!(account.unanswered(), 0);
    for server in servers {
        account.settle(&server).await;
        let sums = server.json("/v1/stats").await["domains"].clone();
        let total = json!({ "total": 12, "catch_all": 0, "not_catch_all": 12, "unknown": 0 });
        assert_eq!(sums, total);
        server.stop();
    }
}

#[tokio::test]
async fn each_sees_what_the_other_acknowledged() {
    let servers = start_two();
    let [one, other] = &servers;
    let mut writers = [one.connect().await, other.connect().await];
    let mut readers = [other.connect().await, one.connect().await];
    for count in 1..=200 {
        let turn = count % 2;
        let answer = writers[turn].put("a.example", Kind::Delivered).await;
        assert_eq!(answer.unwrap().status, 204);
        let told = readers[turn].json("/v1/domains/a.example").await;
        assert_eq!(told["delivered"], count);
        let listed = readers[turn].json("/v1/domains").await;
        assert_eq!(listed["domains"], json!([told]));
        let stats = readers[turn].json("/v1/stats").await;
        assert_eq!(stats["events"]["delivered"], count);
    }
    servers.into_iter().for_each(|server| drop(server.stop()));
}

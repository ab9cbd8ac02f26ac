//! Redis is killed, started again, frozen, thawed and stopped, under load.

use foundation::testing::{Postgres, Redis};

use crate::support::{Job, Kind, Load, Server, Setup, names, until};

/// Requests that must go through in each state of Redis, of writers and of readers.
const REQUESTS: u64 = 300;

/// What is done to Redis.
type Act = fn(&Redis);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_client_hears_of_it() {
    let redis = Redis::start();
    let setup = Setup::postgres(&Postgres::shared().create_database()).cached(&redis.url());
    let server = setup.set("cache.ttl_ms", 50).start();
    let domains = names(20);
    let writers = Load::start(server.address(), 12, Job::Write, &domains);
    let readers = Load::start(server.address(), 12, Job::Read, &domains);
    let served = async || {
        writers.go_on_for(REQUESTS).await;
        readers.go_on_for(REQUESTS).await;
    };

    cache_is(&server, true).await;
    served().await;
    let faults: [(Act, Act); 3] = [
        (|redis| redis.kill(), |redis| redis.start_again()),
        (|redis| redis.freeze(), |redis| redis.thaw()),
        (|redis| redis.stop(), |redis| redis.start_again()),
    ];
    for (begin, end) in faults {
        begin(&redis);
        served().await;
        cache_is(&server, false).await;
        served().await;
        end(&redis);
        served().await;
        cache_is(&server, true).await;
        let before = hits(&server).await;
        until("the cache answers again", async || {
            hits(&server).await > before
        })
        .await;
    }

    let read = readers.finish().await;
    assert_eq!(read.acknowledged(), 0);
    let mut account = writers.finish().await;
    assert_eq!(account.unanswered(), 0);
    account.settle(&server).await;

    // What the cache tells is soon what the store does.
    for domain in &domains {
        let target = format!("/v1/domains/{domain}");
        let stored = server.json(&target).await;
        until("the cache has caught up", async || {
            server.get(&target).await.json() == stored
        })
        .await;
    }
    let log = server.stop();
    let errors = |line: &&String| line.contains("\"level\":\"ERROR\"");
    assert_eq!(log.iter().find(errors), None);
}

#[tokio::test]
async fn a_server_starts_without_it_and_takes_it_up() {
    let redis = Redis::start();
    redis.stop();
    let folder = tempfile::tempdir().unwrap();
    let server = Setup::embedded(folder.path()).cached(&redis.url()).start();
    let mut connection = server.connect().await;
    let answer = connection.put("a.example", Kind::Bounced).await.unwrap();
    assert_eq!(answer.status, 204);
    let read = async || server.get("/v1/domain/a.example").await;
    assert_eq!(read().await.text(), "\"not catch-all\"");
    assert_eq!(server.get("/readyz").await.status, 200);
    assert_eq!(hits(&server).await, 0);

    redis.start_again();
    cache_is(&server, true).await;
    until("the cache answers", async || {
        assert_eq!(read().await.text(), "\"not catch-all\"");
        hits(&server).await > 0
    })
    .await;
    server.stop();
}

async fn cache_is(server: &Server, used: bool) {
    until("the server knows the state of Redis", async || {
        server.metric("catchall_cache_up").await == u64::from(used)
    })
    .await;
}

async fn hits(server: &Server) -> u64 {
    server
        .metric("catchall_cache_requests_total{result=\"hit\"}")
        .await
}

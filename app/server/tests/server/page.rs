use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use fantoccini::{Client, ClientBuilder, Locator, key::Key};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};

use crate::support::{DEADLINE, Kind, Setup};

/// Starts the driver, and ends it once the test process is gone, however it went: then its input ends.
const GUARDED: &str = "chromedriver --port=0 </dev/null & driver=$!; cat >/dev/null; kill $driver";

/// A headless Chromium.
struct Browser {
    driver: Child,
    client: Client,
}

impl Browser {
    async fn start() -> Self {
        let mut driver = Command::new("sh")
            .args(["-c", GUARDED])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port: u16 = lines
            .find_map(|line| {
                let line = line.unwrap();
                let port = line.split("successfully on port ").nth(1)?;
                port.trim_end_matches('.').parse().ok()
            })
            .expect("chromedriver tells its port: see scripts/test-dependencies.sh");
        let arguments = [
            "--headless=new",
            // It has no use for one here, and as root it would not start.
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--window-size=1280,900",
        ];
        let options = json!({ "goog:chromeOptions": { "args": arguments } });
        let Value::Object(options) = options else {
            unreachable!()
        };
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(options)
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .unwrap();
        Self { driver, client }
    }

    /// The text of an element, as it is shown.
    async fn text(&self, css: &str) -> String {
        let element = self.client.find(Locator::Css(css)).await.unwrap();
        element.text().await.unwrap()
    }

    /// Waits until an element's text is as it should be.
    async fn until(&self, css: &str, holds: impl Fn(&str) -> bool) {
        let began = Instant::now();
        loop {
            let text = self.text(css).await;
            if holds(&text) {
                return;
            }
            assert!(began.elapsed() < DEADLINE, "{css} says {text:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Types a domain in place of what stands there, and asks for it, by keys alone.
    async fn look_up(&self, domain: &str) {
        let input = self.client.find(Locator::Id("domain")).await.unwrap();
        input.clear().await.unwrap();
        let typed = format!("{domain}{}", char::from(Key::Enter));
        input.send_keys(&typed).await.unwrap();
    }

    async fn click(&self, css: &str) {
        let element = self.client.find(Locator::Css(css)).await.unwrap();
        element.click().await.unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends its browser.
        drop(self.driver.stdin.take());
        let _ = self.driver.wait();
    }
}

fn number(text: &str) -> f64 {
    text.replace(',', "").parse().unwrap_or(0.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_what_the_server_does() {
    let server = Setup::memory().start();
    let browser = Browser::start().await;
    let page = format!("http://{}/", server.address());
    browser.client.goto(&page).await.unwrap();
    browser.until("#status", |text| text == "serving").await;
    browser.until("#domains", |text| text == "0").await;
    let foreign = "return performance.getEntriesByType('resource')
        .filter((entry) => !entry.name.startsWith(location.origin + '/')).length";
    let foreign = browser.client.execute(foreign, Vec::new()).await.unwrap();
    assert_eq!(foreign, 0, "something comes from elsewhere");

    // Under load it moves by itself.
    browser.click("#tail-switch").await;
    let address = server.address();
    let load = tokio::spawn(async move {
        let mut connection = torture::http::Connection::open(address).await.unwrap();
        for n in 0.. {
            let domain = format!("d{}.example", n % 7);
            let answer = connection.put(&domain, Kind::Delivered).await.unwrap();
            assert_eq!(answer.status, 204);
        }
    });
    browser.until("#rate", |text| number(text) > 0.0).await;
    browser.until("#latency", |text| text.ends_with("ms")).await;
    browser.until("#domains", |text| text == "7").await;
    browser
        .until("#tail", |text| {
            text.contains(".example") && text.contains("counted")
        })
        .await;
    browser
        .until("#tail-detail", |text| text.contains("not shown"))
        .await;
    // Each has a thousand in the end.
    browser.until("#n-catch-all", |text| text == "7").await;
    browser
        .until("#changes", |text| {
            text.contains("d6.example") && text.contains("catch-all")
        })
        .await;
    load.abort();
    browser.until("#rate", |text| text == "0").await;

    browser.look_up("D3.example").await;
    browser
        .until("#answer", |text| {
            text.starts_with("d3.example\ncatch-all") && text.contains("not one bounce")
        })
        .await;
    browser.look_up("no such name").await;
    browser
        .until("#answer .error", |text| text.contains("domain"))
        .await;
    browser.look_up("new.example").await;
    browser
        .until("#answer", |text| text.contains("No event was ever"))
        .await;
    browser.click("#try button[value=bounced]").await;
    browser
        .until("#tried", |text| {
            text == "One bounced for new.example is counted."
        })
        .await;
    browser
        .until("#answer", |text| {
            text.contains("not catch-all") && text.contains("1 bounced")
        })
        .await;
    browser
        .until("#changes", |text| text.starts_with("new.example"))
        .await;

    server.stop();
    browser
        .until("#status", |text| text.starts_with("no connection"))
        .await;
    browser.look_up("new.example").await;
    browser
        .until("#answer .error", |text| text.contains("does not answer"))
        .await;
}

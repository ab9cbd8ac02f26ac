use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    str::FromStr,
    time::{Duration, Instant},
};

use fantoccini::{Client, ClientBuilder, Locator, key::Key, wd::WebDriverCompatibleCommand};
use hyper_util::client::legacy::connect::HttpConnector;
use reqwest::{Method, Url};
use serde_json::{Value, json};
use torture::small_disk::SmallDisk;

use crate::support::{DEADLINE, Kind, Setup};

/// Starts the driver, and ends it and its browser once the test process is gone, however it went: then
/// its input ends. The driver alone would leave the browser behind.
const GUARDED: &str = r#"
chromedriver --port=0 </dev/null & driver=$!
cat >/dev/null
kill $(grep -ls "^PPid:[[:space:]]*$driver\$" /proc/[0-9]*/status | cut -d/ -f3) "$driver"
"#;

/// A headless Chromium.
struct Browser {
    driver: Child,
    client: Client,
}

impl Browser {
    /// One with a desktop's window.
    async fn start() -> Self {
        Self::with(json!({ "args": [] })).await
    }

    /// With more `goog:chromeOptions`.
    async fn with(mut options: Value) -> Self {
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
        let arguments = options["args"].as_array_mut().unwrap();
        arguments.extend([
            json!("--headless=new"),
            // It has no use for one here, and as root it would not start.
            json!("--no-sandbox"),
            json!("--disable-dev-shm-usage"),
            json!("--hide-scrollbars"),
            json!("--window-size=1280,900"),
        ]);
        let capabilities = [("goog:chromeOptions".to_owned(), options)];
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities.into_iter().collect())
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .unwrap();
        Self { driver, client }
    }

    /// The text of an element, as it is shown; empty while it is not there.
    async fn text(&self, css: &str) -> String {
        let found = match self.client.find(Locator::Css(css)).await {
            Ok(element) => element.text().await,
            Err(error) => Err(error),
        };
        match found {
            Err(error) if error.is_no_such_element() || error.is_stale_element_reference() => {
                String::new()
            }
            found => found.unwrap(),
        }
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

    /// Ends it, with all that it keeps in files.
    async fn close(self) {
        self.client.clone().close().await.unwrap();
    }

    /// Makes the window as high as the page.
    async fn show_all(&self) {
        let size = "return [innerWidth, document.documentElement.scrollHeight]";
        let size = self.client.execute(size, Vec::new()).await.unwrap();
        let size = Resize(size[0].as_u64().unwrap(), size[1].as_u64().unwrap());
        self.client.issue_cmd(size).await.unwrap();
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

/// Width and height, by the protocol of Chromium's developer tools: WebDriver has none for a phone.
#[derive(Debug)]
struct Resize(u64, u64);

impl WebDriverCompatibleCommand for Resize {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, <Url as FromStr>::Err> {
        base.join(&format!("session/{}/goog/cdp/execute", session.unwrap()))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        let Self(width, height) = self;
        let metrics =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        let body = json!({ "cmd": "Emulation.setDeviceMetricsOverride", "params": metrics });
        (Method::POST, Some(body.to_string()))
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
        .until("#status", |text| text.ends_with("trying again"))
        .await;
    browser.look_up("new.example").await;
    browser
        .until("#answer .error", |text| text.contains("does not answer"))
        .await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_says_why_the_server_is_not_ready() {
    let disk = SmallDisk::new();
    let server = Setup::embedded(&disk.data())
        .set("store.embedded.segment_bytes", 1 << 20)
        .set("store.embedded.min_free_bytes", disk.min_free_bytes())
        .start();
    let browser = Browser::start().await;
    let page = format!("http://{}/", server.address());
    browser.client.goto(&page).await.unwrap();
    browser.until("#status", |text| text == "serving").await;

    disk.fill();
    browser
        .until("#status", |text| {
            text == "not ready, store: no room to write, on its disk or in its spool"
        })
        .await;
    assert_eq!(server.get("/readyz").await.status, 503);

    disk.free();
    browser.until("#status", |text| text == "serving").await;
    assert_eq!(server.get("/readyz").await.status, 200);
    browser.close().await;
    server.stop();
}

/// `make screenshots`: the page under load, for the docs.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "it draws, and proves nothing"]
async fn pictures_of_the_page() {
    const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/pictures");
    let folder = tempfile::tempdir().unwrap();
    let server = Setup::embedded(folder.path()).start();
    let address = server.address();
    let load = (0..24).map(|seed| {
        tokio::spawn(async move {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut connection = torture::http::Connection::open(address).await.unwrap();
            loop {
                // Some domains get much more than others.
                let domain = format!("mail{}.example", 400 / rng.u32(1..400));
                let kind = match rng.u32(..3_000) {
                    0 => Kind::Bounced,
                    _ => Kind::Delivered,
                };
                connection.put(&domain, kind).await.unwrap();
            }
        })
    });
    let load: Vec<tokio::task::JoinHandle<()>> = load.collect();
    let phone = json!({
        "args": [],
        "mobileEmulation": { "deviceMetrics": { "width": 390, "height": 844, "pixelRatio": 1 } },
    });
    let mut pages = Vec::new();
    for (name, options) in [
        ("page", json!({ "args": [] })),
        (
            "page-dark",
            json!({ "args": ["--blink-settings=preferredColorScheme=0"] }),
        ),
        ("page-phone", phone),
    ] {
        let browser = Browser::with(options).await;
        let page = format!("http://{address}/");
        browser.client.goto(&page).await.unwrap();
        pages.push((name, browser));
    }
    // A minute is shown, and not the one in which they were started.
    tokio::time::sleep(Duration::from_secs(75)).await;
    for (name, browser) in pages {
        browser.look_up("mail2.example").await;
        browser
            .until("#answer", |text| text.contains("delivered"))
            .await;
        browser.click("#tail-switch").await;
        browser
            .until("#tail", |text| text.lines().count() > 60)
            .await;
        browser
            .until("#tail-detail", |text| text.contains("not shown"))
            .await;
        browser.show_all().await;
        let picture = browser.client.screenshot().await.unwrap();
        std::fs::write(format!("{FOLDER}/{name}.png"), picture).unwrap();
        browser.close().await;
    }
    load.iter().for_each(tokio::task::JoinHandle::abort);
}

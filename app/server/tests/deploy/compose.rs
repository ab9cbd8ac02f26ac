//! `docker-compose.yml`, and what Prometheus and Grafana are told in it.

use std::time::Duration;

use catchall::settings::{CacheKind, StoreKind};
use regex::Regex;
use serde_json::{Map, Value};

use crate::{image, path, settings, texts, yaml};

fn compose() -> Value {
    yaml("docker-compose.yml")
}

fn services(compose: &Value) -> &Map<String, Value> {
    compose["services"].as_object().unwrap()
}

/// Source and target of each volume of a service.
fn mounts(service: &Value) -> impl Iterator<Item = (&str, &str)> {
    texts(&service["volumes"]).into_iter().map(|mount| {
        let mut parts = mount.split(':');
        (parts.next().unwrap(), parts.next().unwrap())
    })
}

/// The file of the repository that a container sees under this name.
fn mounted(service: &Value, inside: &str) -> std::path::PathBuf {
    let (source, rest) = mounts(service)
        .find_map(|(source, target)| Some((source, inside.strip_prefix(target)?)))
        .unwrap_or_else(|| panic!("{inside} is not mounted"));
    path(source).join(rest.trim_start_matches('/'))
}

#[test]
fn the_server_takes_the_settings_and_uses_the_services() {
    let compose = compose();
    let own = compose["services"]["catchall"]["environment"]
        .as_object()
        .unwrap();
    let own = own
        .iter()
        .map(|(name, value)| (&**name, value.as_str().unwrap()));
    let of_image = image::environment();
    let of_image = of_image.iter().map(|(name, value)| (&**name, &**value));
    let settings = settings(of_image.chain(own));

    assert_eq!(settings.store.kind, StoreKind::Postgres);
    assert_eq!(settings.cache.kind, CacheKind::Redis);
    let postgres = &compose["services"]["postgres"]["environment"];
    let of = |name: &str| postgres[name].as_str().unwrap();
    assert_eq!(
        settings.store.postgres.url().unwrap().expose(),
        format!(
            "postgres://{}:{}@postgres:5432/{}",
            of("POSTGRES_USER"),
            of("POSTGRES_PASSWORD"),
            of("POSTGRES_DB")
        )
    );
    assert_eq!(
        settings.cache.redis.url().unwrap().expose(),
        "redis://redis:6379/"
    );
    let grace = compose["services"]["catchall"]["stop_grace_period"].as_str();
    let grace: u64 = grace.unwrap().strip_suffix('s').unwrap().parse().unwrap();
    assert!(
        Duration::from_secs(grace) > Duration::from_millis(settings.http.drain_timeout_ms.get()),
        "docker would kill a server that drains"
    );
}

#[test]
fn every_service_has_what_it_refers_to() {
    let compose = compose();
    let pinned = Regex::new(r"^[a-z/]+:v?\d+(\.\d+)*$").unwrap();
    let services = services(&compose);
    for (name, service) in services {
        let image = service["image"].as_str().unwrap();
        assert!(
            service["build"] == "." || pinned.is_match(image),
            "{name}: {image} is another one tomorrow"
        );
        for (other, depends) in service["depends_on"].as_object().into_iter().flatten() {
            let other = &services[other];
            let healthy = depends["condition"] == "service_healthy";
            assert!(!healthy || other["healthcheck"]["test"].is_array());
        }
        for (source, _) in mounts(service) {
            let known = match source.strip_prefix("./") {
                Some(folder) => path(folder).is_dir(),
                None => compose["volumes"].get(source).is_some(),
            };
            assert!(known, "{name}: there is no {source}");
        }
        for port in texts(&service["ports"]) {
            assert!(
                port.starts_with("127.0.0.1:"),
                "{name}: {port} is open to all"
            );
        }
    }
    let published: Vec<&str> = services
        .values()
        .flat_map(|service| texts(&service["ports"]))
        .filter_map(|port| port.rsplit(':').next())
        .collect();
    let own = image::exposed_port().to_string();
    assert_eq!(published, [&own, "3000", "9090"]);
}

#[test]
fn prometheus_scrapes_the_server() {
    let compose = compose();
    let prometheus = &compose["services"]["prometheus"];
    let config = texts(&prometheus["command"])
        .into_iter()
        .find_map(|flag| flag.strip_prefix("--config.file="))
        .unwrap();
    assert!(mounted(prometheus, config).is_file());

    let config = yaml("deploy/prometheus/prometheus.yml");
    let jobs = config["scrape_configs"].as_array().unwrap();
    let job = jobs.iter().find(|job| job["job_name"] == "catchall");
    assert_eq!(
        texts(&job.unwrap()["static_configs"][0]["targets"]),
        [format!("catchall:{}", image::exposed_port())]
    );
    let rules = config["rule_files"][0].as_str().unwrap();
    let rules = mounted(prometheus, &format!("/etc/prometheus/{rules}"));
    assert!(rules.parent().unwrap().is_dir());
}

#[test]
fn grafana_finds_prometheus_and_the_dashboards() {
    let compose = compose();
    let grafana = &compose["services"]["grafana"];
    let provisioned = |kind: &str, file: &str| {
        let folder = format!("/etc/grafana/provisioning/{kind}");
        assert!(mounted(grafana, &folder).join(file).is_file());
        yaml(&format!("deploy/grafana/provisioning/{kind}/{file}"))
    };

    let source = &provisioned("datasources", "prometheus.yml")["datasources"][0];
    assert_eq!(source["url"], "http://prometheus:9090");
    let interval = &yaml("deploy/prometheus/prometheus.yml")["global"]["scrape_interval"];
    assert_eq!(&source["jsonData"]["timeInterval"], interval);

    let provider = &provisioned("dashboards", "catchall.yml")["providers"][0];
    let folder = provider["options"]["path"].as_str().unwrap();
    let home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
        .as_str()
        .unwrap();
    assert!(home.starts_with(folder));
    assert_eq!(
        mounted(grafana, home),
        path("./deploy/grafana/dashboards").join("catchall-overview.json")
    );
    assert!(mounted(grafana, home).is_file());
}

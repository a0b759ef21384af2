//! The service of which somebody on call looks at the metrics, scraped by Debian's Prometheus.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lock_runtime::observe::METRICS;
use lock_tests::faults::comes_true;
use lock_tests::server::Server;
use reqwest::StatusCode;
use serde_json::Value;

use crate::example;

const DEADLINE: Duration = Duration::from_secs(60);

/// A process that does not outlive its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The example, as its clients see it.
#[derive(Clone)]
struct Shop {
    client: reqwest::Client,
    url: String,
}

impl Shop {
    /// Starts the example with its locks on `server`.
    fn open(server: &Server) -> (Running, Shop) {
        let mut command = example::command("observability", Some(server));
        command.env("LOCK_COMMAND_TIMEOUT", "500ms");
        command.arg("127.0.0.1:0").stdout(Stdio::piped());
        let mut service = Running(command.spawn().unwrap());
        let mut lines = BufReader::new(service.0.stdout.take().unwrap()).lines();
        let listening = lines.next().unwrap().unwrap();
        let shop = Shop {
            client: reqwest::Client::new(),
            url: listening.strip_prefix("listening on ").unwrap().to_owned(),
        };
        (service, shop)
    }

    fn authority(&self) -> &str {
        self.url.strip_prefix("http://").unwrap()
    }

    async fn post(&self, path: &str) -> StatusCode {
        let answer = self.client.post(format!("{}{path}", self.url)).send();
        answer.await.unwrap().status()
    }

    async fn get(&self, path: &str) -> String {
        let answer = self.client.get(format!("{}{path}", self.url)).send().await;
        answer.unwrap().text().await.unwrap()
    }

    /// The samples of a scrape by their names, labels included.
    async fn scrape(&self) -> BTreeMap<String, f64> {
        let text = self.get("/metrics").await;
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let samples = lines.filter_map(|line| line.rsplit_once(' '));
        let samples = samples.map(|(name, value)| (name.to_owned(), value.parse().unwrap()));
        samples.collect()
    }
}

/// A Prometheus that scrapes the example.
struct Prometheus {
    _server: Running,
    _home: tempfile::TempDir,
    client: reqwest::Client,
    url: String,
}

impl Prometheus {
    async fn start(shop: &Shop) -> Prometheus {
        // A port that was free a moment ago.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let home = tempfile::tempdir().unwrap();
        let target = shop.authority();
        let config = format!(
            "global: {{ scrape_interval: 500ms }}\nscrape_configs:\n  \
             - {{ job_name: shop, static_configs: [ {{ targets: [ {target:?} ] }} ] }}\n"
        );
        std::fs::write(home.path().join("prometheus.yml"), config).unwrap();
        let mut command = Command::new("prometheus");
        command
            .arg("--config.file=prometheus.yml")
            .arg("--storage.tsdb.path=data")
            .arg(format!("--web.listen-address={address}"))
            .current_dir(home.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let server = Running(command.spawn().expect("`scripts/needs` installs it"));
        let prometheus = Prometheus {
            _server: server,
            _home: home,
            client: reqwest::Client::new(),
            url: format!("http://{address}"),
        };
        let is_ready = async || {
            let ready = format!("{}/-/ready", prometheus.url);
            let answer = prometheus.client.get(ready).send().await;
            answer.is_ok_and(|answer| answer.status().is_success())
        };
        comes_true("Prometheus", is_ready).await;
        prometheus
    }

    /// How many series a query finds now.
    async fn series(&self, query: &str) -> usize {
        let request = self.client.get(format!("{}/api/v1/query", self.url));
        let answer = request.query(&[("query", query)]).send().await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].as_array().unwrap().len()
    }
}

/// The queries of the dashboard, as Grafana would send them.
fn queries() -> Vec<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../ops/grafana.json");
    let dashboard = std::fs::read_to_string(path).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array());
    let queries = targets.flatten().map(|target| target["expr"].as_str());
    let queries = queries.map(|query| {
        let query = query.unwrap().replace("$lock", ".*");
        query.replace("$__rate_interval", "20s")
    });
    queries.collect()
}

#[tokio::test]
async fn every_query_of_the_dashboard_finds_what_prometheus_scrapes() {
    let server = Server::start();
    let (_service, shop) = Shop::open(&server);
    let prometheus = Prometheus::start(&shop).await;
    let queries = queries();
    assert!(queries.len() > 14, "{queries:?}");
    let deadline = Instant::now() + DEADLINE;
    for query in queries {
        while prometheus.series(&query).await == 0 {
            assert!(Instant::now() < deadline, "{query} finds nothing");
            // What is asked for is how often something happened of late.
            assert!(shop.post("/coupons/1").await.is_success());
        }
    }
    // The control: what is not there is not found.
    assert_eq!(prometheus.series("distributed_lock_of_nobody").await, 0);
}

#[tokio::test]
async fn every_metric_of_a_scrape_says_what_has_happened() {
    let mut server = Server::start();
    let (_service, shop) = Shop::open(&server);

    // Thirty one after the other, which all are free.
    for id in 0..30 {
        let coupon = format!("/coupons/{id}");
        assert!(shop.post(&coupon).await.is_success());
    }
    // One that is held for seconds, and another who does not wait for it.
    let writing = shop.clone();
    let writing = tokio::spawn(async move { writing.post("/reports/may").await });
    let is_held = async || shop.get("/debug/locks").await.contains("\"report:may\"");
    comes_true("the report", is_held).await;
    assert_eq!(shop.post("/reports/may").await, StatusCode::CONFLICT);
    assert_eq!(shop.get("/ready").await, "ready\n");
    let during = shop.scrape().await;
    assert!(writing.await.unwrap().is_success());
    // One whose lock is deleted.
    let losing = shop.clone();
    let losing = tokio::spawn(async move { losing.post("/reports/june").await });
    let is_held = async || server.run::<bool>(&["EXISTS", "lock:report:june"]);
    comes_true("the next report", is_held).await;
    server.run::<()>(&["DEL", "lock:report:june"]);
    assert!(losing.await.unwrap().is_server_error());
    let well = shop.scrape().await;
    // One whose server dies, which cannot be renewed, nor released.
    let alone = shop.clone();
    let alone = tokio::spawn(async move { alone.post("/reports/july").await });
    let is_held = async || server.run::<bool>(&["EXISTS", "lock:report:july"]);
    comes_true("the last report", is_held).await;
    server.kill();
    assert!(alone.await.unwrap().is_success(), "its lease has lived");
    let away = shop.scrape().await;
    let named = format!("away: 127.0.0.1:{}\n", server.port());
    assert_eq!(shop.get("/ready").await, named);

    for name in METRICS {
        assert!(away.keys().any(|of| of.starts_with(name)), "{name}");
        // No key is a label.
        let mut names = away.keys();
        assert!(names.all(|of| !of.contains("may") && !of.contains("coupon:1")));
    }
    let of = |scrape: &BTreeMap<String, f64>, name: &str| {
        let name = format!("distributed_lock_{name}");
        let value = scrape.get(&name);
        *value.unwrap_or_else(|| panic!("{name} is not in {scrape:#?}"))
    };
    let coupon =
        |name: &str, label: &str| of(&well, &format!("{name}{{lock=\"coupon:<id>\"{label}}}"));
    let report =
        |name: &str, label: &str| of(&well, &format!("{name}{{lock=\"report:<month>\"{label}}}"));
    let acquired = ",outcome=\"acquired\"";
    assert_eq!(coupon("acquire_duration_seconds_count", acquired), 30.0);
    assert_eq!(report("acquire_duration_seconds_count", acquired), 2.0);
    let taken = ",outcome=\"taken\"";
    assert_eq!(report("acquire_duration_seconds_count", taken), 1.0);
    assert_eq!(coupon("grants_total", ",via=\"free\""), 30.0);
    let released = ",outcome=\"released\"";
    assert_eq!(coupon("hold_duration_seconds_count", released), 30.0);
    // A body takes 50 ms.
    assert!(coupon("hold_duration_seconds_sum", released) >= 30.0 * 0.05);
    let lost = ",outcome=\"lost\"";
    assert_eq!(report("hold_duration_seconds_count", lost), 1.0);
    assert_eq!(report("lost_total", ",reason=\"deleted\""), 1.0);
    assert_eq!(report("lost_total", ",reason=\"expired\""), 0.0);
    assert_eq!(report("held", ""), 0.0);
    assert_eq!(report("waiting", ""), 0.0);
    let held = "held{lock=\"report:<month>\"}";
    assert_eq!(of(&during, held), 1.0);
    assert_eq!(report("oldest_hold_seconds", ""), 0.0);
    // Renewed every half of a second, of leases of 5 s, for 3 s.
    let renewals = of(&well, "lease_margin_seconds_count");
    assert!((1.0..=9.0).contains(&renewals), "{renewals}");
    let margin = of(&well, "lease_margin_seconds_sum") / renewals;
    assert!((0.0..5.0).contains(&margin), "{margin}");
    let answered = |verb| {
        let name =
            format!("store_request_duration_seconds_count{{verb=\"{verb}\",outcome=\"ok\"}}");
        of(&well, &name)
    };
    // One for each that was had: that another here has it is known without the store.
    assert_eq!(answered("acquire"), 32.0);
    assert!(answered("release") >= 31.0);
    assert!(answered("renew") >= renewals);
    let failures = |scrape, name: &str| {
        let causes = ["timeout", "connection", "refused"];
        let of_each = causes.map(|cause| of(scrape, &format!("{name}{{cause=\"{cause}\"}}")));
        of_each.iter().sum::<f64>()
    };
    for name in ["renewal_failures_total", "release_failures_total"] {
        assert_eq!(failures(&well, name), 0.0, "{name}");
        assert!(failures(&away, name) >= 1.0, "{name}");
    }
    let lane = "store_connected{way=\"lane\"}";
    assert_eq!((of(&well, lane), of(&away, lane)), (1.0, 0.0));
    let given_up = "store_reconnects_total{way=\"lane\"}";
    assert_eq!((of(&well, given_up), of(&away, given_up)), (0.0, 1.0));
    for function in ["retry", "owner_tokens", "observer"] {
        let name = format!("panics_total{{function=\"{function}\"}}");
        assert_eq!(of(&away, &name), 0.0);
    }
}

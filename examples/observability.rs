//! How does somebody who is on call see the locks of a service?
//!
//! An axum server gives out coupons under a lock. Its log has a line for each lock that was lost,
//! or waited for too long, and every line that a body logs carries its fencing token; `/metrics` is
//! what Prometheus scrapes, `/debug/locks` what this process holds now, and `/ready` whether it
//! could get a lock. `ops/` of the repository has a dashboard and alerts for these metrics.
//!
//! ```text
//! $ cargo run --example observability
//! listening on http://127.0.0.1:3000
//! ```
//!
//! and in another terminal:
//!
//! ```text
//! $ curl -X POST localhost:3000/coupons/1
//! coupon 1 is yours
//! $ curl -s localhost:3000/metrics | grep acquire_duration_seconds_count
//! distributed_lock_acquire_duration_seconds_count{lock="coupon:<id>",outcome="acquired"} 1
//! ```

use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use lock_runtime::observe::BUCKETS;
use lock_runtime::{LockError, LockRuntime, distributed_lock};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[distributed_lock(key = "coupon:<id>", ttl = "5s", wait = "5s")]
async fn claim(Path(id): Path<u64>) -> Result<String, LockError> {
    tracing::info!("a coupon is given out"); // carries the lock and its fencing token
    tokio::time::sleep(Duration::from_millis(50)).await;
    Ok(format!("coupon {id} is yours\n"))
}

/// It takes a while, and its lock is renewed meanwhile.
#[distributed_lock(key = "report:<month>", ttl = "5s", wait = "0s")]
async fn report(Path(month): Path<String>) -> Result<String, LockError> {
    tokio::time::sleep(Duration::from_secs(3)).await;
    Ok(format!("the report of {month} is written\n"))
}

/// What this process holds, without asking the store.
async fn held() -> Result<Json<Vec<Value>>, LockError> {
    let held = LockRuntime::global()?.local();
    let shown = held.iter().map(|lock| {
        json!({
            "lock": lock.name,
            "key": lock.key.as_str(),
            "fencing_token": lock.fencing_token.as_u64(),
            "held_secs": lock.held.as_secs_f64(),
            "remaining_secs": lock.remaining.as_secs_f64(),
            "waiting": lock.waiting,
        })
    });
    Ok(Json(shown.collect()))
}

/// Whether a lock could be had, for a load balancer or Kubernetes: 200, or 503 with those that are
/// away. No lock is taken.
async fn ready() -> Result<(StatusCode, String), LockError> {
    let health = LockRuntime::global()?.health().await?;
    let away: Vec<_> = health.away().map(|member| &*member.address).collect();
    Ok(match health.can_grant {
        true => (StatusCode::OK, "ready\n".to_owned()),
        false => {
            let away = format!("away: {}\n", away.join(", "));
            (StatusCode::SERVICE_UNAVAILABLE, away)
        }
    })
}

async fn metrics(State(exporter): State<PrometheusHandle>) -> String {
    exporter.render()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    // Before the runtime, whose metrics would else go nowhere.
    let exporter = PrometheusBuilder::new()
        .set_buckets(&BUCKETS)?
        .install_recorder()?;
    let locks = lock_examples::locks().build().await?;
    locks.install()?;
    let routes = Router::new()
        .route("/coupons/{id}", post(claim))
        .route("/reports/{month}", post(report))
        .route("/debug/locks", get(held))
        .route("/metrics", get(metrics))
        .route("/ready", get(ready))
        .with_state(exporter);
    let address = std::env::args().nth(1);
    let address = address.as_deref().unwrap_or("127.0.0.1:3000");
    let listener = TcpListener::bind(address).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = async move {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
    };
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, routes)
        .with_graceful_shutdown(stop)
        .await?;
    Ok(LockRuntime::global()?.shutdown().await?)
}

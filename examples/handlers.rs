//! How does a web service use the lock?
//!
//! An axum server reserves seats. Paying takes a while, and meanwhile the seat is neither free nor
//! reserved, so the handler holds a lock on it: of two who want the same seat, one gets it, and
//! only that one pays. What an error of the lock means to the client is said once, in `Refusal`.
//! When a client goes away, axum drops the handler, and the lock is free again at once. At SIGTERM,
//! which is what Docker, Kubernetes and systemd send, the server ends when all who are being served
//! have their answers and all locks are released.
//!
//! ```text
//! $ cargo run --example handlers
//! listening on http://127.0.0.1:3000
//! ```
//!
//! and in another terminal, two for one seat:
//!
//! ```text
//! $ curl -X PUT localhost:3000/seats/12A/alice & curl -i -X PUT localhost:3000/seats/12A/bob
//! {"seat":"12A","guest":"alice"}
//! HTTP/1.1 409 Conflict
//! …
//! the seat is reserved
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use lock_runtime::{LockError, LockRuntime, distributed_lock};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Reserves a seat.
///
/// The runtime comes from the state, so that each test can have its own. A service with one may
/// `install` it at startup instead.
#[distributed_lock(key = "seat:<seat>", ttl = "5s", wait = "2s", runtime = app.locks)]
async fn reserve(
    State(app): State<App>,
    Path((seat, guest)): Path<(String, String)>,
) -> Result<Json<Ticket>, Refusal> {
    if app.seats().contains_key(&seat) {
        return Err(Refusal::Reserved);
    }
    app.till.charge(&guest).await;
    app.seats().insert(seat.clone(), guest.clone());
    Ok(Json(Ticket { seat, guest }))
}

async fn seats(State(app): State<App>) -> Json<HashMap<String, String>> {
    Json(app.seats().clone())
}

/// Why a seat was not reserved.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// Somebody has it.
    #[error("the seat is reserved")]
    Reserved,
    /// There was no lock.
    #[error(transparent)]
    Lock(#[from] LockError),
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Refusal::Reserved => (StatusCode::CONFLICT, "the seat is reserved").into_response(),
            // 409 while somebody pays for it, 503 where the store is away.
            Refusal::Lock(error) => error.into_response(),
        }
    }
}

/// A reserved seat.
#[derive(Serialize)]
pub(crate) struct Ticket {
    seat: String,
    guest: String,
}

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct App {
    locks: LockRuntime,
    seats: Arc<Mutex<HashMap<String, String>>>,
    till: Till,
}

impl App {
    /// A house with all seats free.
    pub(crate) fn new(locks: LockRuntime, till: Till) -> App {
        App {
            locks,
            seats: Arc::default(),
            till,
        }
    }

    /// The routes.
    pub(crate) fn router(self) -> Router {
        Router::new()
            .route("/seats", get(seats))
            .route("/seats/{seat}/{guest}", put(reserve))
            .with_state(self)
    }

    fn seats(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the money. A stand-in for a payment provider, which answers after so long.
#[derive(Clone)]
pub(crate) struct Till {
    /// How long a payment takes.
    pub(crate) takes: Duration,
}

impl Till {
    async fn charge(&self, guest: &str) {
        tokio::time::sleep(self.takes).await;
        println!("{guest} has paid");
    }
}

#[allow(dead_code, reason = "the tests start the server themselves")]
#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let locks = lock_examples::locks().build().await?;
    let till = Till {
        takes: Duration::from_secs(1),
    };
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
    // No new clients from here on; those who are being served are served to the end.
    axum::serve(listener, App::new(locks.clone(), till).router())
        .with_graceful_shutdown(stop)
        .await?;
    // The locks of clients who have gone away are being released.
    Ok(locks.shutdown().await?)
}

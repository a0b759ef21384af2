//! Over HTTP, by an axum service in front of the data.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use axum::routing::put;
use lock_runtime::fencing::{Stale, Writer, http};
use tower::ServiceExt;

use super::{stale_and_later, twin, writer};

/// A balance and its fence.
#[derive(Default)]
struct Account {
    balance: String,
    fence: Option<Writer>,
}

type Shared = State<Arc<Mutex<Account>>>;

async fn fenced(State(account): Shared, writer: Writer, balance: String) -> Result<(), Stale> {
    let mut account = account.lock().unwrap();
    if let Some(fence) = &account.fence
        && (writer.token() < fence.token() || writer.token() == fence.token() && writer != *fence)
    {
        return Err(Stale {
            fence: Some(fence.token()),
        });
    }
    account.fence = Some(writer);
    account.balance = balance;
    Ok(())
}

async fn unfenced(State(account): Shared, balance: String) {
    account.lock().unwrap().balance = balance;
}

struct Service {
    account: Arc<Mutex<Account>>,
    routes: Router,
}

impl Service {
    fn new() -> Service {
        let account = Arc::<Mutex<Account>>::default();
        let routes = Router::new()
            .route("/fenced", put(fenced))
            .route("/unfenced", put(unfenced))
            .with_state(Arc::clone(&account));
        Service { account, routes }
    }

    async fn put(&self, path: &str, headers: &[(&str, &str)], balance: &str) -> Response {
        let mut request = Request::put(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(balance.to_owned())).unwrap();
        self.routes.clone().oneshot(request).await.unwrap()
    }

    async fn write(&self, path: &str, writer: &Writer, balance: &str) -> Response {
        let headers = http::headers(writer);
        let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        self.put(path, &headers, balance).await
    }

    fn balance(&self) -> String {
        self.account.lock().unwrap().balance.clone()
    }
}

#[tokio::test]
async fn a_stale_request_is_refused_with_the_fence() {
    let (stale, later) = stale_and_later().await;
    let service = Service::new();
    assert_eq!(
        service.write("/fenced", &stale, "1").await.status(),
        StatusCode::OK
    );
    assert_eq!(
        service.write("/fenced", &later, "2").await.status(),
        StatusCode::OK
    );
    for stale in [&stale, &twin(&later)] {
        let refusal = service.write("/fenced", stale, "1").await;
        assert_eq!(refusal.status(), StatusCode::PRECONDITION_FAILED);
        assert_eq!(refusal.headers()[http::TOKEN], later.token().to_string());
        let text = to_bytes(refusal.into_body(), usize::MAX).await.unwrap();
        assert!(text.starts_with(b"a later holder of the lock has been here"));
    }
    assert_eq!(service.balance(), "2");

    // The control.
    assert_eq!(
        service.write("/unfenced", &stale, "1").await.status(),
        StatusCode::OK
    );
    assert_eq!(service.balance(), "1");
}

#[tokio::test]
async fn a_holder_writes_as_often_as_it_likes() {
    let (service, holder) = (Service::new(), writer(5));
    for balance in ["1", "2", "3"] {
        let answer = service.write("/fenced", &holder, balance).await;
        assert_eq!(answer.status(), StatusCode::OK);
    }
    assert_eq!(service.balance(), "3");
}

#[tokio::test]
async fn the_headers_carry_any_writer() {
    let service = Service::new();
    for sent in [
        writer(0),
        writer((1 << 53) - 1),
        Writer::new(writer((1 << 53) - 1).token(), "Zoë 100%/lr-1"),
    ] {
        service.account.lock().unwrap().fence = None;
        let answer = service.write("/fenced", &sent, "1").await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(service.account.lock().unwrap().fence, Some(sent));
    }
}

#[tokio::test]
async fn a_request_without_proper_headers_writes_nothing() {
    let service = Service::new();
    let (token, owner) = (http::TOKEN, http::OWNER);
    let too_large = (1_u64 << 53).to_string();
    let cases: &[&[(&str, &str)]] = &[
        &[],
        &[(token, "5")],
        &[(owner, "me")],
        &[(token, "5"), (owner, "")],
        &[(token, ""), (owner, "me")],
        &[(token, "+5"), (owner, "me")],
        &[(token, "-5"), (owner, "me")],
        &[(token, "5.0"), (owner, "me")],
        &[(token, "five"), (owner, "me")],
        &[(token, &too_large), (owner, "me")],
        &[(token, "99999999999999999999999"), (owner, "me")],
        &[(token, "5"), (token, "6"), (owner, "me")],
        &[(token, "5"), (owner, "me"), (owner, "you")],
    ];
    for headers in cases {
        let answer = service.put("/fenced", headers, "1").await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{headers:?}");
    }
    assert_eq!(service.balance(), "");
    // The control: the same request with both passes.
    let answer = service
        .put("/fenced", &[(token, "5"), (owner, "me")], "1")
        .await;
    assert_eq!(answer.status(), StatusCode::OK);
}

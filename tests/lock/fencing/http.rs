//! Over HTTP, by an axum service in front of the data.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::request::Builder;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use axum::routing::{get, put};
use lock_runtime::fencing::{Stale, Writer, http};
use tower::ServiceExt;

use super::{Phases, stale_and_later, twin, writer};

/// A balance and its fence.
#[derive(Default)]
struct Account {
    balance: String,
    fence: Option<Writer>,
}

type Shared = State<Arc<Mutex<Account>>>;

impl Account {
    /// Raises the fence, unless the writer comes too late.
    fn raise(&mut self, writer: Writer) -> Result<(), Stale> {
        if let Some(fence) = &self.fence
            && (writer.token() < fence.token()
                || writer.token() == fence.token() && writer != *fence)
        {
            return Err(Stale {
                fence: Some(fence.token()),
            });
        }
        self.fence = Some(writer);
        Ok(())
    }
}

async fn fenced(State(account): Shared, writer: Writer, balance: String) -> Result<(), Stale> {
    let mut account = account.lock().unwrap();
    account.raise(writer)?;
    account.balance = balance;
    Ok(())
}

async fn read(State(account): Shared, writer: Writer) -> Result<String, Stale> {
    let mut account = account.lock().unwrap();
    account.raise(writer)?;
    Ok(account.balance.clone())
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
            .route("/fenced", put(fenced).merge(get(read)))
            .route("/unfenced", put(unfenced))
            .with_state(Arc::clone(&account));
        Service { account, routes }
    }

    async fn put(&self, path: &str, headers: &[(&str, &str)], balance: &str) -> Response {
        self.send(Request::put(path), headers, balance).await
    }

    async fn send(
        &self,
        mut request: Builder,
        headers: &[(&str, &str)],
        balance: &str,
    ) -> Response {
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(balance.to_owned())).unwrap();
        self.routes.clone().oneshot(request).await.unwrap()
    }

    async fn read(&self, writer: &Writer) -> StatusCode {
        let headers = http::headers(writer);
        let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        self.send(Request::get("/fenced"), &headers, "")
            .await
            .status()
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
async fn readers_pass_together_and_refuse_the_writer_before_them_and_the_next_refuses_them() {
    let Phases {
        earlier,
        readers,
        later,
    } = Phases::new().await;
    let (service, refused) = (Service::new(), StatusCode::PRECONDITION_FAILED);
    let write = async |writer: &Writer, balance: &str| {
        service.write("/fenced", writer, balance).await.status()
    };
    assert_eq!(write(&earlier, "1").await, StatusCode::OK);
    for reader in readers.iter().chain(&readers) {
        assert_eq!(service.read(reader).await, StatusCode::OK);
    }
    assert_eq!(write(&earlier, "2").await, refused);
    assert_eq!(write(&later, "3").await, StatusCode::OK);
    for reader in &readers {
        assert_eq!(service.read(reader).await, refused);
    }
    assert_eq!(service.balance(), "3");

    // The controls: readers that are told apart, and a fence that nobody looks at.
    let control = Service::new();
    assert_eq!(control.read(&readers[0]).await, StatusCode::OK);
    assert_eq!(control.read(&twin(&readers[1])).await, refused);
    let unfenced = control.write("/unfenced", &earlier, "2").await;
    assert_eq!(unfenced.status(), StatusCode::OK);
    assert_eq!(control.balance(), "2");
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

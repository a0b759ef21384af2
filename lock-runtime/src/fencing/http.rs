//! A pair of headers that carries the token to the service that has the data.
//!
//! `Fencing-Token` is the token in decimal, `Fencing-Owner` the owner token. The client adds them
//! to every request that it makes under a lock, reads included. The service passes the [`Writer`]
//! to the fence of its own store. A stale writer gets `412 Precondition Failed`, with the token of
//! the fence in `Fencing-Token`.
//!
//! Accept them only from your own services: whoever sends the largest of all tokens locks the
//! others out.
//!
//! # Examples
//!
//! With any client:
//!
//! ```
//! use lock_runtime::FencingToken;
//! use lock_runtime::fencing::{Writer, http};
//!
//! let writer = Writer::new(FencingToken::new(1_795_255_504_165_462), "7f1c/lr-1");
//! let [token, owner] = http::headers(&writer);
//! assert_eq!(token, (http::TOKEN, "1795255504165462".to_owned()));
//! assert_eq!(owner, (http::OWNER, "7f1c/lr-1".to_owned()));
//! ```
//!
//! In an axum service [`Writer`] is an extractor, which refuses requests without the headers, and
//! [`Stale`](super::Stale) a response (feature `axum`):
//!
//! ```
//! use lock_runtime::fencing::{Stale, Writer};
//!
//! async fn put_balance(writer: Writer, balance: String) -> Result<(), Stale> {
//!     // Raise the fence and write, in one transaction.
//! #   Ok(())
//! }
//! ```

use super::Writer;

/// The name of the header for the fencing token.
pub const TOKEN: &str = "fencing-token";
/// The name of the header for the owner token.
pub const OWNER: &str = "fencing-owner";

/// The headers of a request on behalf of `writer`.
pub fn headers(writer: &Writer) -> [(&'static str, String); 2] {
    [
        (TOKEN, writer.token().to_string()),
        (OWNER, writer.owner().to_owned()),
    ]
}

#[cfg(feature = "axum")]
mod axum {
    use axum_core::extract::FromRequestParts;
    use axum_core::response::{IntoResponse, Response};
    use http::request::Parts;
    use http::{HeaderMap, StatusCode};
    use lock_protocol::FencingToken;

    use super::super::{Stale, Writer};
    use super::{OWNER, TOKEN};

    /// `400 Bad Request` without the headers, or with invalid ones.
    impl<S: Sync> FromRequestParts<S> for Writer {
        type Rejection = (StatusCode, &'static str);

        async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Writer, Self::Rejection> {
            let bad = |reason| (StatusCode::BAD_REQUEST, reason);
            let token = only(&parts.headers, TOKEN)
                .ok_or_else(|| bad("there must be one header `fencing-token`"))?;
            let owner = only(&parts.headers, OWNER)
                .ok_or_else(|| bad("there must be one header `fencing-owner`"))?;
            let token =
                parse(token).ok_or_else(|| bad("`fencing-token` must be a number below 2^53"))?;
            Ok(Writer::new(token, owner))
        }
    }

    /// `412 Precondition Failed`, with the fence in the header `fencing-token`.
    impl IntoResponse for Stale {
        fn into_response(self) -> Response {
            let fence = self.fence.map(|fence| [(TOKEN, fence.to_string())]);
            (StatusCode::PRECONDITION_FAILED, fence, self.to_string()).into_response()
        }
    }

    /// Of two values one would win somewhere else on the way.
    fn only<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
        let mut values = headers.get_all(name).into_iter();
        let value = std::str::from_utf8(values.next()?.as_bytes()).ok()?;
        (values.next().is_none() && !value.is_empty()).then_some(value)
    }

    fn parse(token: &str) -> Option<FencingToken> {
        const LIMIT: u64 = 1 << 53;
        let digits = token.bytes().all(|byte| byte.is_ascii_digit());
        let number: u64 = token.parse().ok().filter(|_| digits)?;
        (number < LIMIT).then(|| FencingToken::new(number))
    }
}

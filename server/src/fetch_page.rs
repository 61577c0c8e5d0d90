//! Reads one page of a node's HTTP listener.

use std::io;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::TcpStream;

/// No page of ours is longer but /metrics of a very large node, which nothing here reads.
const PAGE_BYTES_MAX: usize = 4 << 20;

/// A page as it came.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    /// The status code.
    pub(crate) code: u16,
    /// The content.
    pub(crate) body: Bytes,
}

/// The page did not come.
#[derive(Debug, Error)]
pub(crate) enum FetchError {
    /// Nobody listens there.
    #[error("{0}")]
    Connect(#[from] io::Error),
    /// The answer is not HTTP.
    #[error("{0}")]
    Http(#[from] hyper::Error),
    /// The request cannot be made.
    #[error("{0}")]
    Request(#[from] hyper::http::Error),
    /// The content broke off, or is too long.
    #[error("{0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
}

/// Gets `path` from `address` (host:port). No deadline: the caller sets one.
///
/// # Errors
/// [`FetchError`]; an answer with another code than 200 is no error.
pub(crate) async fn fetch(address: &str, path: &str) -> Result<Page, FetchError> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path).header("host", address).body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let code = response.status().as_u16();
        let body =
            Limited::new(response.into_body(), PAGE_BYTES_MAX).collect().await.map_err(FetchError::Body)?;
        Ok(Page { code, body: body.to_bytes() })
    };
    let mut connection = std::pin::pin!(connection);
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! { biased;
        page = &mut exchange => page,
        ended = &mut connection => {
            // The peer closed; what it sent before may be complete.
            ended?;
            exchange.await
        }
    }
}

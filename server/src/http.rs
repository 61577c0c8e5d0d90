//! Health and metrics over HTTP: `/livez`, `/readyz`, `/metrics`.

use std::{io, net::TcpListener as StdListener, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use quorate_core::runtime::{Clock, TaskScope};
use tokio::{net::TcpListener, sync::oneshot};
use tracing::warn;

use crate::{listener::Shards, readiness::Readiness};

/// What the pages show; asked anew for each request.
pub(crate) trait Pages: Send + Sync + 'static {
    /// How far the node has come.
    fn readiness(&self) -> Readiness;
    /// The metrics in OpenMetrics' text format.
    fn metrics(&self) -> String;
}

struct Site {
    pages: Arc<dyn Pages>,
    shards: Arc<Shards>,
}

/// An event loop that has not turned within this is stuck, not busy.
const TURN_MS_MAX: Duration = Duration::from_secs(2);

/// Serves `pages` on `listener` until `scope` stops.
///
/// # Errors
/// If the system refuses to watch the listener.
pub(crate) fn serve(
    listener: StdListener,
    pages: Arc<dyn Pages>,
    shards: Arc<Shards>,
    scope: &TaskScope,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let site = router(pages, shards);
    let tasks = scope.clone();
    scope.spawn(async move {
        let stopping = tasks.clone();
        tokio::select! { biased;
            // Requests under way are dropped: nothing here is worth holding up a shutdown.
            () = stopping.stopping() => {}
            served = axum::serve(listener, site) => {
                if let Err(error) = served {
                    warn!(%error, "health and metrics are not served any more");
                }
            }
        }
    });
    Ok(())
}

fn router(pages: Arc<dyn Pages>, shards: Arc<Shards>) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(Arc::new(Site { pages, shards }))
}

/// Alive: every event loop turns.
async fn livez(State(site): State<Arc<Site>>) -> impl IntoResponse {
    for (number, shard) in site.shards.all().iter().enumerate() {
        let (turned, waits) = oneshot::channel();
        // Not a task of the node but a knock on an event loop, which holds nothing.
        shard.spawn(async move { drop(turned.send(())) });
        if Clock::system().timeout(TURN_MS_MAX, waits).await.is_err() {
            return (StatusCode::SERVICE_UNAVAILABLE, format!("shard {number} does not turn\n"));
        }
    }
    (StatusCode::OK, "alive\n".to_owned())
}

async fn readyz(State(site): State<Arc<Site>>) -> impl IntoResponse {
    let readiness = site.pages.readiness();
    let code = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(readiness))
}

async fn metrics(State(site): State<Arc<Site>>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], site.pages.metrics())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fetch_page::fetch,
        readiness::{Progress, readiness},
    };
    use quorate_core::ids::NodeId;

    struct Fixed(bool);

    impl Pages for Fixed {
        fn readiness(&self) -> Readiness {
            let mut answer = readiness(NodeId(1), &Progress::default());
            answer.ready = self.0;
            answer
        }
        fn metrics(&self) -> String {
            "# EOF\n".to_owned()
        }
    }

    async fn site(ready: bool) -> (String, TaskScope) {
        let listener = StdListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let scope = TaskScope::threaded();
        serve(listener, Arc::new(Fixed(ready)), Arc::new(Shards::start(2).unwrap()), &scope).unwrap();
        (address, scope)
    }

    #[tokio::test]
    async fn readyz_answers_503_with_the_reason_and_200_when_ready() {
        for (ready, code) in [(false, 503), (true, 200)] {
            let (address, scope) = site(ready).await;
            let page = fetch(&address, "/readyz").await.unwrap();
            assert_eq!(page.code, code);
            let answer: Readiness = serde_json::from_slice(&page.body).unwrap();
            assert_eq!((answer.ready, answer.node), (ready, 1));
            scope.stop().await;
        }
    }

    #[tokio::test]
    async fn livez_and_metrics_answer() {
        let (address, scope) = site(false).await;
        assert_eq!(fetch(&address, "/livez").await.unwrap().code, 200);
        assert_eq!(fetch(&address, "/metrics").await.unwrap().body, "# EOF\n");
        assert_eq!(fetch(&address, "/nothing").await.unwrap().code, 404);
        scope.stop().await;
    }
}

//! Health and metrics over HTTP: `/livez`, `/readyz`, `/metrics`.

use std::{net::TcpListener as StdListener, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use quorate_core::runtime::{Clock, TaskScope};
use tokio::{net::TcpListener, runtime::Handle, sync::oneshot};
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
    loops: Loops,
}

/// The process's event loops, to see whether they turn.
pub(crate) struct Loops(Vec<(String, Handle)>);

impl Loops {
    /// Those of `shards`, and the engine's.
    pub(crate) fn new(shards: &[Arc<Shards>], engine: Handle) -> Self {
        let handles = shards.iter().flat_map(|shards| shards.all().iter().cloned());
        let named = handles.enumerate().map(|(number, handle)| (format!("event loop {number}"), handle));
        Self(named.chain([("the engine".to_owned(), engine)]).collect())
    }
}

/// An event loop that has not turned within this is stuck, not busy.
const TURN_MS_MAX: Duration = Duration::from_secs(2);

/// Serves `pages` on `listener` until `scope` stops.
pub(crate) fn serve(listener: StdListener, pages: Arc<dyn Pages>, loops: Loops, scope: &TaskScope) {
    let site = router(pages, loops);
    let tasks = scope.clone();
    scope.spawn(async move {
        let listener = match TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return warn!(%error, "health and metrics are not served"),
        };
        tokio::select! { biased;
            // Requests under way are dropped: nothing here is worth holding up a shutdown.
            () = tasks.stopping() => {}
            served = axum::serve(listener, site) => {
                if let Err(error) = served {
                    warn!(%error, "health and metrics are not served any more");
                }
            }
        }
    });
}

fn router(pages: Arc<dyn Pages>, loops: Loops) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(Arc::new(Site { pages, loops }))
}

/// Alive: every event loop turns.
async fn livez(State(site): State<Arc<Site>>) -> impl IntoResponse {
    for (name, handle) in &site.loops.0 {
        let (turned, waits) = oneshot::channel();
        // Not a task of the node but a knock on an event loop, which holds nothing.
        handle.spawn(async move {
            // Whoever asked may have given up.
            let _ = turned.send(());
        });
        if Clock::system().timeout(TURN_MS_MAX, waits).await.is_err() {
            return (StatusCode::SERVICE_UNAVAILABLE, format!("{name} does not turn\n"));
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
        let shards = Arc::new(Shards::start("shard", 2).unwrap());
        let loops = Loops::new(std::slice::from_ref(&shards), Handle::current());
        serve(listener, Arc::new(Fixed(ready)), loops, &scope);
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

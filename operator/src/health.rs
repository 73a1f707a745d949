//! `/livez`, `/readyz` and `/metrics`, for anybody who can reach the port: bounded in time, size and number.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use prometheus_client::registry::Registry;
use tokio::{
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};

use crate::{metrics, watch::Source};

/// The loop is alive if it turned within this time.
const ALIVE: Duration = Duration::from_secs(60);
/// Connections at once.
const CONNECTIONS: usize = 256;
/// How long a request may take to come.
const HEADERS: Duration = Duration::from_secs(5);
/// How long a connection may last.
const CONNECTION: Duration = Duration::from_secs(30);
/// Bytes that are read of a request before it has to be understood.
const BUFFER: usize = 16 << 10;

/// What the port tells.
#[derive(Debug)]
pub struct Health {
    began: Instant,
    /// Milliseconds after `began` when the loop last turned.
    turned: AtomicU64,
    missing: Mutex<BTreeMap<Source, String>>,
}

impl Default for Health {
    fn default() -> Self {
        let missing = Source::ALWAYS.iter().map(|s| (*s, "not yet listed".to_owned())).collect();
        Self { began: Instant::now(), turned: AtomicU64::new(0), missing: Mutex::new(missing) }
    }
}

impl Health {
    /// The loop turned.
    pub fn turned(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.turned.store(now, Ordering::Relaxed);
    }

    /// A watch has told everything there is, or why it has not.
    pub fn source(&self, source: Source, missing: Option<String>) {
        let mut all = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        match missing {
            Some(why) => drop(all.insert(source, why)),
            None => drop(all.remove(&source)),
        }
    }

    fn alive(&self) -> bool {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let since = now.saturating_sub(self.turned.load(Ordering::Relaxed));
        Duration::from_millis(since) < ALIVE
    }

    fn ready(&self) -> Result<(), String> {
        let missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        if missing.is_empty() {
            return Ok(());
        }
        let lines: Vec<_> =
            missing.iter().map(|(source, why)| format!("{}: {why}\n", source.name())).collect();
        Err(lines.concat())
    }
}

/// What the port serves.
pub fn router(health: Arc<Health>, registry: Arc<Registry>) -> Router {
    let live = async |State((health, _)): State<(Arc<Health>, Arc<Registry>)>| {
        if health.alive() {
            (StatusCode::OK, "ok\n")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "the loop does not turn\n")
        }
    };
    let ready = async |State((health, _)): State<(Arc<Health>, Arc<Registry>)>| match health.ready() {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(missing) => (StatusCode::SERVICE_UNAVAILABLE, missing),
    };
    let page = async |State((_, registry)): State<(Arc<Health>, Arc<Registry>)>| {
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        ([(CONTENT_TYPE, kind)], metrics::page(&registry)).into_response()
    };
    Router::new()
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/metrics", get(page))
        .with_state((health, registry))
}

/// Opens the port.
///
/// # Errors
/// It cannot be had.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves until it is dropped. Whoever comes is served at once: where too many are there, the oldest goes.
pub async fn serve(listener: TcpListener, router: Router) {
    let mut connections: VecDeque<AbortHandle> = VecDeque::with_capacity(CONNECTIONS);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "failed to accept a connection");
                if let Some(oldest) = connections.pop_front() {
                    oldest.abort();
                }
                // Out of descriptors, perhaps: some connection has to end first.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if connections.len() >= CONNECTIONS {
            connections.retain(|connection| !connection.is_finished());
        }
        if connections.len() >= CONNECTIONS
            && let Some(oldest) = connections.pop_front()
        {
            oldest.abort();
        }
        let router = router.clone();
        let task = tokio::spawn(async move {
            // What goes wrong on a connection is the client's affair.
            let _ = tokio::time::timeout(CONNECTION, connection(stream, router)).await;
        });
        connections.push_back(task.abort_handle());
    }
}

async fn connection(stream: TcpStream, router: Router) -> Result<(), hyper::Error> {
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn ask(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // It may have closed the connection before all of it was sent.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        ask(address, format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await
    }

    #[tokio::test]
    async fn it_tells_how_it_is_and_survives_garbage() {
        let health = Arc::new(Health::default());
        let metrics = metrics::Metrics::default();
        metrics.note_synced(Source::Nodes, true);
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, router(Arc::clone(&health), Arc::new(metrics.registry()))));

        assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));
        let unready = get(address, "/readyz").await;
        assert!(
            unready.starts_with("HTTP/1.1 503") && unready.contains("nodes: not yet listed"),
            "{unready}"
        );
        Source::ALWAYS.iter().for_each(|s| health.source(*s, None));
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        health.source(Source::Pods, Some("forbidden".to_owned()));
        assert!(get(address, "/readyz").await.contains("pods: forbidden"));

        let page = get(address, "/metrics").await;
        assert!(page.contains("balancing_reconcile_synced{source=\"nodes\"} 1"), "{page}");
        assert!(page.trim_end().ends_with("# EOF"), "{page}");

        ask(address, &[0u8; 4096]).await;
        ask(address, format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(1 << 20)).as_bytes()).await;
        // More than there is room for, all of them half way through a request: who comes next is served at once.
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS * 2 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /livez HTT").await.unwrap();
            idle.push(stream);
        }
        let began = Instant::now();
        assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));
        assert!(began.elapsed() < HEADERS, "it waited for those who were there");
        assert!(get(address, "/nowhere").await.starts_with("HTTP/1.1 404"));
        drop(idle);
        server.abort();
    }
}

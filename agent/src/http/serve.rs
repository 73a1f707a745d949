//! Accepts connections and keeps each from harming the others: a cap on their number, and time limits on every wait.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{Router, serve::Listener as Accept};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, UnixListener},
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, Sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Bound, NodeView, bind::Listener, router};

/// Connections an address serves at one time; more wait to be accepted.
const CONNECTIONS: usize = 256;
/// How long a connection may take to send a request's head, the wait between two requests included.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// How long a client may take none of what is written to it.
const STALL_TIME: Duration = Duration::from_secs(30);
/// How long requests that are under way may take when the agent ends.
const END_TIME: Duration = Duration::from_secs(3);

/// Serves the addresses until `shutdown`, then lets requests that are under way end. Removes the sockets' files.
///
/// # Errors
/// A listener that the runtime does not take.
pub async fn serve<V: NodeView>(
    addresses: Vec<Bound>,
    view: Arc<V>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let mut listeners = JoinSet::new();
    for Bound { listener, listen, access } in addresses {
        let router = router(Arc::clone(&view), access, shutdown.clone());
        let shutdown = shutdown.clone();
        tracing::info!(%listen, access = ?access, "serving the agent API");
        match listener {
            Listener::Unix(listener, file) => {
                let listener = UnixListener::from_std(listener)?;
                listeners.spawn(accept_all(listener, router, shutdown, move || drop(file)));
            }
            Listener::Tcp(listener) => {
                let listener = TcpListener::from_std(listener)?;
                listeners.spawn(accept_all(listener, router, shutdown, || {}));
            }
        }
    }
    while listeners.join_next().await.is_some() {}
    Ok(())
}

/// Accepts until `shutdown`, pausing where accept(2) fails; then runs `closed`, so that nobody new finds the address, and waits for the rest.
async fn accept_all<L: Accept>(
    mut listener: L,
    router: Router,
    shutdown: CancellationToken,
    closed: impl FnOnce() + Send,
) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let permit = Arc::clone(&permits).acquire_owned().await;
            (listener.accept().await, permit)
        };
        let ((stream, _), permit) = tokio::select! {
            next = next => next,
            () = shutdown.cancelled() => break,
        };
        let connection = connection(stream, router.clone(), shutdown.clone());
        connections.spawn(async move {
            connection.await;
            drop(permit);
        });
        while connections.try_join_next().is_some() {}
    }
    closed();
    drop(listener);
    let rest = async { while connections.join_next().await.is_some() {} };
    // What does not end in time is aborted with the set.
    let _ = timeout(END_TIME, rest).await;
}

async fn connection<S>(stream: S, router: Router, shutdown: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(Stalling { stream, waiting: None });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .serve_connection(io, TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a client of the agent API went away");
    }
}

/// A stream whose writes fail when the other end takes nothing for [`STALL_TIME`].
struct Stalling<S> {
    stream: S,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncWrite + Unpin> Stalling<S> {
    fn watched<T>(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(result) = write(Pin::new(&mut self.stream), context) {
            self.waiting = None;
            return Poll::Ready(result);
        }
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + STALL_TIME)));
        ready!(waiting.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stalling<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stalling<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.watched(context, |stream, context| stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.watched(context, |stream, context| stream.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.watched(context, AsyncWrite::poll_flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.watched(context, AsyncWrite::poll_shutdown)
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_head_that_does_not_come_ends_the_connection() {
        let (mut client, server) = duplex(1024);
        let serving = tokio::spawn(connection(server, Router::new(), CancellationToken::new()));
        let start = Instant::now();
        client.write_all(b"GET / HTT").await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        serving.await.unwrap();
        assert!(start.elapsed() >= HEAD_TIME && start.elapsed() < HEAD_TIME * 2, "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_ends_the_connection() {
        let (mut client, server) = duplex(64);
        let router = Router::new().route("/", get(async || "x".repeat(1 << 20)));
        let start = Instant::now();
        let serving = tokio::spawn(connection(server, router, CancellationToken::new()));
        client.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
        serving.await.unwrap();
        assert!(start.elapsed() >= STALL_TIME && start.elapsed() < STALL_TIME * 2, "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_is_slow_but_takes_something_is_served() {
        let (mut client, server) = duplex(64);
        let body = "#".repeat(1000);
        let router = Router::new().route("/", get(async move || body.clone()));
        let serving = tokio::spawn(connection(server, router, CancellationToken::new()));
        client.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        let mut piece = [0; 64];
        loop {
            tokio::time::sleep(STALL_TIME - Duration::from_secs(1)).await;
            match client.read(&mut piece).await.unwrap() {
                0 => break,
                n => answer.extend_from_slice(&piece[..n]),
            }
        }
        serving.await.unwrap();
        assert_eq!(answer.iter().filter(|b| **b == b'#').count(), 1000);
    }
}

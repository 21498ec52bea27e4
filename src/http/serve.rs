//! Serve: connections in, requests to the router, and a stop that lets everybody finish.

use std::future::Future;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::{info, warn};

/// How long a client may take to send a request's head; idle connections end with it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a stopping server waits for requests under way.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// Travels with every request: cancelled when the server stops, so that answers without an end find one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stopping(pub CancellationToken);

/// Serves until `shutdown` ends, then finishes what is under way. hyper itself refuses more than 100 headers,
/// contradicting lengths and heads beyond its buffer.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let graceful = GracefulShutdown::new();
    let stopping = Stopping::default();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => connect(stream, router.clone(), &graceful, stopping.clone()),
                // Out of file descriptors, as a rule: give connections time to end.
                Err(error) => {
                    warn!(%error, "A connection could not be accepted: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
    drop(listener);
    stopping.0.cancel();
    if tokio::time::timeout(STOP_TIMEOUT, graceful.shutdown()).await.is_err() {
        info!("Stopped while requests were still running");
    }
    Ok(())
}

fn connect(stream: TcpStream, router: Router, graceful: &GracefulShutdown, stopping: Stopping) {
    // A response goes out at once, even where it is smaller than a packet.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(stopping.clone());
        router.clone().oneshot(request.map(Body::new))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let watched = graceful.watch(connection);
    // How a connection ends is the client's affair.
    tokio::spawn(async move { drop(watched.await) });
}

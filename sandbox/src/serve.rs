//! Serve: the stand-in on a port, and its webhooks over HTTP.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Delivery, Sandbox};

const POLL: Duration = Duration::from_millis(50);
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Serves `sandbox` on `addr` and delivers its webhooks, until an error.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(addr: SocketAddr, sandbox: Sandbox) -> io::Result<()> {
    let listener = tokio::net::TcpListener::bind(addr).await?;
    let delivering = tokio::spawn(sandbox.clone().deliver_over_http());
    let served = axum::serve(listener, sandbox.router()).await;
    delivering.abort();
    served
}

impl Sandbox {
    /// Posts webhooks when they are due, for ever. Redirects are failures, as at Stripe.
    pub async fn deliver_over_http(self) {
        // Harmless where the process has chosen its provider already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client =
            reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).timeout(ANSWER_WITHIN);
        let Ok(client) = client.build() else {
            tracing::error!("The sandbox cannot deliver webhooks: no HTTP client");
            return;
        };
        let carry = client.clone();
        self.deliver_with(Arc::new(move |delivery| {
            let client = carry.clone();
            Box::pin(async move { post(&client, &delivery).await })
        }));
        loop {
            for delivery in self.deliveries_due() {
                let (sandbox, client) = (self.clone(), client.clone());
                tokio::spawn(async move {
                    let status = post(&client, &delivery).await;
                    sandbox.delivery_done(&delivery.id, status);
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

async fn post(client: &reqwest::Client, delivery: &Delivery) -> Option<u16> {
    let headers = delivery.headers.iter();
    let request =
        headers.fold(client.post(&delivery.url), |request, (name, value)| request.header(*name, value));
    Some(request.body(delivery.body.clone()).send().await.ok()?.status().as_u16())
}

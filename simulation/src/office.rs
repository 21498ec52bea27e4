//! Office: the mail server and the user's own application in a simulated world. They keep what they are sent, and fail as
//! the gates say.

use super::faults::{DeliveryFault, Injection};
use super::gates::{self, Decision};
use crate::gates::Edge;
use opentab::internals::mailer::{Carrier, CarryFuture, Email, HandOver, Outbox};
use opentab::internals::outgoing::{Listener, Post, PostFuture, Poster};

#[derive(Debug, Default)]
pub(crate) struct Office {
    pub mail: Outbox,
    pub application: Listener,
}

impl Carrier for Office {
    fn carry<'a>(&'a self, email: Email, hand_over: HandOver<'a>) -> CarryFuture<'a> {
        Box::pin(async move {
            if let Some(fault) = fault().await {
                self.mail.next_ends(fault.of_mail());
            }
            let outcome = self.mail.carry(email, hand_over).await;
            gates::pass(Edge::Answered).await;
            outcome
        })
    }
}

impl Poster for Office {
    fn post(&self, post: Post) -> PostFuture<'_> {
        Box::pin(async move {
            self.application.answers(fault().await.map_or(Ok(200), DeliveryFault::of_webhook));
            let answer = self.application.post(post).await;
            gates::pass(Edge::Answered).await;
            answer
        })
    }
}

async fn fault() -> Option<DeliveryFault> {
    match gates::pass(Edge::Deliver).await {
        Decision::Inject(Injection::Delivery(fault)) => Some(fault),
        _ => None,
    }
}

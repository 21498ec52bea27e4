//! Fault: one thing that can go wrong, its name, and which requests it can happen to.

/// One thing that goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The connection is refused: the request never reaches Stripe.
    Refuse,
    /// The connection drops before anything is executed.
    DropBefore,
    /// Executed, and the connection drops before the answer.
    LoseAnswer,
    /// Executed, and the connection drops in the middle of the answer.
    CutAnswer,
    /// No answer for as long as the client waits. `executed`: it took effect all the same.
    TimeOut {
        /// Whether Stripe executes the request although no answer arrives.
        executed: bool,
    },
    /// No answer for as long as the client waits, and it takes effect only `for_ms` later. Until then its key is in use
    /// and its invoice locked.
    Slow {
        /// How long after the request it takes effect, in milliseconds.
        for_ms: i64,
    },
    /// An error instead of the answer. `stored`: replayed under its idempotency key; `executed`: it took effect.
    Status {
        /// The HTTP status of the error.
        status: u16,
        /// Stripe's error code; None for an error without one.
        code: Option<String>,
        /// Whether a retry with the same idempotency key gets this error again.
        stored: bool,
        /// Whether the request takes effect despite the error.
        executed: bool,
    },
    /// An error with the headers that tell a client what to do; nothing is executed. Only a 5xx that says not to retry is
    /// replayed under its key: that is why Stripe says so.
    Advice {
        /// The HTTP status of the error.
        status: u16,
        /// The value of `Stripe-Should-Retry`; None omits the header.
        should_retry: Option<bool>,
        /// The value of `Retry-After`, in seconds; None omits the header.
        retry_after_s: Option<u32>,
    },
    /// 429, with the reason header if there is one.
    RateLimited {
        /// The value of `Stripe-Rate-Limited-Reason`, such as `global-rate`; None omits the header.
        reason: Option<String>,
    },
    /// 429 `lock_timeout`, without a request id; nothing was executed.
    LockTimeout,
    /// 409 `idempotency_key_in_use`; nothing was executed.
    KeyInUse,
    /// Every answer that is stored under an idempotency key is forgotten; then the request goes on.
    PruneKeys,
    /// The charge is declined with this code.
    Decline {
        /// The decline code that Stripe gives, such as `insufficient_funds`.
        code: &'static str,
    },
    /// Somebody deletes the object that the request is about, just before.
    DeleteFirst,
    /// Behind this page of a list a new object turns up before the next page is asked for.
    ListGrows,
    /// The last object of this page goes away before the next page is asked for.
    ListShrinks,
    /// Search shows what was true an hour ago.
    StaleSearch,
    /// Wherever this field is in the answer, its value is one that nobody has heard of.
    UnknownValue {
        /// The name of the JSON field, such as `status`.
        field: &'static str,
    },
    /// The answer has fields that nobody has heard of.
    UnknownField,
    /// Executed and answered 200 with a body that is no JSON.
    Garble,
    /// Executed, and its webhooks are delivered before the answer goes out, by [`super::Sandbox::deliver_with`].
    WebhookFirst,
    /// The webhook is handed out twice.
    WebhookDuplicate,
    /// The change has two events, with an id and a webhook each.
    EventTwice,
    /// The webhook never arrives, and is never tried again.
    WebhookDrop,
    /// The webhook waits for [`super::Sandbox::release_held_webhooks`], which lets the last one go first.
    WebhookHold,
    /// The webhook comes so much later.
    WebhookLate {
        /// How long the webhook is delayed, in milliseconds.
        by_ms: i64,
    },
    /// Somebody without the secret posts an event like it, with an id and amounts of their own; the true one comes too.
    WebhookForge,
    /// Somebody who has seen the webhook posts it again with its old signature; the true one comes too.
    WebhookReplay,
    /// The webhook is signed with a second secret beside the endpoint's own, as while one is rolled.
    WebhookTwoSecrets,
}

/// The reasons that Stripe gives for a 429.
pub const RATE_LIMIT_REASONS: &[&str] =
    &["global-rate", "endpoint-rate", "global-concurrency", "endpoint-concurrency", "resource-specific"];

/// The decline codes that [`Fault::kinds`] plays.
pub const DECLINE_CODES: &[&str] =
    &["generic_decline", "insufficient_funds", "lost_card", "expired_card", "authentication_required"];

impl Fault {
    /// One of every kind, under a name that stays the same.
    pub fn kinds() -> Vec<(String, Fault)> {
        let mut kinds = connection_kinds();
        kinds.extend(status_kinds());
        kinds.extend(object_kinds());
        kinds.extend(webhook_kinds());
        kinds
    }

    /// The kind of this name.
    pub fn named(name: &str) -> Option<Fault> {
        Fault::kinds().into_iter().find(|(known, _)| known == name).map(|(_, fault)| fault)
    }

    /// Its name: that of [`Fault::kinds`], or the nearest one's where its values are others.
    pub fn name(&self) -> String {
        let kinds = Fault::kinds();
        let exact = kinds.iter().find(|(_, fault)| fault == self);
        let like = |fault: &Fault| std::mem::discriminant(fault) == std::mem::discriminant(self);
        let found = exact.or_else(|| kinds.iter().find(|(_, fault)| like(fault)));
        found.map_or_else(String::new, |(name, _)| name.clone())
    }

    /// Whether it happens to webhooks on their way, and not to requests.
    pub fn is_about_webhooks(&self) -> bool {
        matches!(
            self,
            Self::WebhookDuplicate
                | Self::EventTwice
                | Self::WebhookDrop
                | Self::WebhookHold
                | Self::WebhookLate { .. }
                | Self::WebhookForge
                | Self::WebhookReplay
                | Self::WebhookTwoSecrets
        )
    }

    /// Whether it can happen to this operation (`GET /v1/invoices`): only a list has pages, only a charge is declined.
    pub fn fits(&self, operation: &str) -> bool {
        let (method, path) = operation.split_once(' ').unwrap_or(("", operation));
        match self {
            Self::Slow { .. } | Self::KeyInUse | Self::PruneKeys => method == "POST",
            Self::WebhookFirst => method != "GET",
            Self::Decline { .. } => method == "POST" && path.ends_with("/pay"),
            Self::DeleteFirst => path.contains('{') || operation == "POST /v1/invoices",
            Self::ListGrows | Self::ListShrinks => method == "GET" && is_list(path),
            Self::StaleSearch => path.ends_with("/search"),
            _ => true,
        }
    }
}

fn is_list(path: &str) -> bool {
    !path.ends_with('}') && !path.ends_with("/search") && path != "/v1/balance" && path != "/v1/account"
}

type Kinds = Vec<(String, Fault)>;

fn connection_kinds() -> Kinds {
    vec![
        ("connection_refused".into(), Fault::Refuse),
        ("dropped_before".into(), Fault::DropBefore),
        ("dropped_after".into(), Fault::LoseAnswer),
        ("answer_cut".into(), Fault::CutAnswer),
        ("timed_out_before".into(), Fault::TimeOut { executed: false }),
        ("timed_out_after".into(), Fault::TimeOut { executed: true }),
        ("slow".into(), Fault::Slow { for_ms: 60_000 }),
    ]
}

fn status_kinds() -> Kinds {
    let error = |status, stored, executed| Fault::Status { status, code: None, stored, executed };
    let advice = |status, should_retry, retry_after_s| Fault::Advice { status, should_retry, retry_after_s };
    let mut kinds = vec![
        ("error_500".into(), error(500, false, false)),
        ("error_500_executed".into(), error(500, false, true)),
        ("error_500_stored".into(), error(500, true, false)),
        ("error_500_executed_stored".into(), error(500, true, true)),
        ("unauthorized".into(), error(401, false, false)),
        ("should_retry_true".into(), advice(400, Some(true), None)),
        ("should_retry_false".into(), advice(500, Some(false), None)),
        ("retry_after_429".into(), advice(429, None, Some(5))),
        ("retry_after_503".into(), advice(503, None, Some(5))),
        ("rate_limited".into(), Fault::RateLimited { reason: None }),
        ("lock_timeout".into(), Fault::LockTimeout),
        ("key_in_use".into(), Fault::KeyInUse),
        ("keys_pruned".into(), Fault::PruneKeys),
    ];
    for reason in RATE_LIMIT_REASONS {
        let name = format!("rate_limited_{}", reason.replace('-', "_"));
        kinds.push((name, Fault::RateLimited { reason: Some((*reason).to_owned()) }));
    }
    let declined = |code: &&'static str| (format!("declined_{code}"), Fault::Decline { code });
    kinds.extend(DECLINE_CODES.iter().map(declined));
    kinds
}

fn object_kinds() -> Kinds {
    vec![
        ("object_deleted".into(), Fault::DeleteFirst),
        ("list_grows".into(), Fault::ListGrows),
        ("list_shrinks".into(), Fault::ListShrinks),
        ("search_stale".into(), Fault::StaleSearch),
        ("unknown_status".into(), Fault::UnknownValue { field: "status" }),
        ("unknown_billing_reason".into(), Fault::UnknownValue { field: "billing_reason" }),
        ("unknown_field".into(), Fault::UnknownField),
        ("answer_garbled".into(), Fault::Garble),
    ]
}

fn webhook_kinds() -> Kinds {
    vec![
        ("webhook_before_answer".into(), Fault::WebhookFirst),
        ("webhook_duplicated".into(), Fault::WebhookDuplicate),
        ("event_twice".into(), Fault::EventTwice),
        ("webhook_dropped".into(), Fault::WebhookDrop),
        ("webhook_reordered".into(), Fault::WebhookHold),
        ("webhook_late".into(), Fault::WebhookLate { by_ms: 3_600_000 }),
        ("webhook_forged".into(), Fault::WebhookForge),
        ("webhook_replayed".into(), Fault::WebhookReplay),
        ("webhook_two_secrets".into(), Fault::WebhookTwoSecrets),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_kind_has_a_name_of_its_own_and_is_found_by_it() {
        let kinds = Fault::kinds();
        let names: BTreeSet<&String> = kinds.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), kinds.len());
        for (name, fault) in &kinds {
            assert_eq!((Fault::named(name).as_ref(), &fault.name()), (Some(fault), name));
        }
        assert_eq!(Fault::WebhookLate { by_ms: 7 }.name(), "webhook_late");
    }

    #[test]
    fn a_fault_waits_for_a_request_that_it_can_happen_to() {
        assert!(Fault::ListShrinks.fits("GET /v1/invoices/{invoice}/lines"));
        assert!(!Fault::ListShrinks.fits("GET /v1/invoices/{invoice}"));
        assert!(!Fault::PruneKeys.fits("DELETE /v1/invoices/{invoice}"));
        assert!(!Fault::Decline { code: "lost_card" }.fits("POST /v1/invoices/{invoice}/void"));
    }
}

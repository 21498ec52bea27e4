//! Why a workflow stopped, split by what happens next.

use std::time::Duration;

use crate::stripe::{Refusal, StripeError};

/// Why a workflow stopped. Stopping between any two steps is safe: the next run goes on from what is recorded.
#[derive(Debug, thiserror::Error)]
pub enum WorkflowError {
    /// Somebody else is at work on this customer: try again in a moment.
    #[error("somebody else is at work on {0}")]
    Busy(String),
    /// Stripe did not answer, or asks to slow down: try again soon, with what was recorded.
    #[error("{0}")]
    StripeUnavailable(String),
    /// Stripe asks to slow down, and says for how long: not before.
    #[error("{why}")]
    AskedToWait { why: String, wait: Duration },
    /// Stripe does not accept the key: nothing goes on until a human has set another.
    #[error("Stripe does not accept the key: {0}")]
    StripeUnauthorized(String),
    /// Stripe refused, and asking again will not help.
    #[error("{what}: Stripe refused: {refusal}")]
    Refused { what: String, refusal: Box<Refusal> },
    /// What is stored cannot be billed, such as an amount out of range.
    #[error("customer {customer_id}: {why}")]
    Unbillable { customer_id: String, why: String },
    /// A mistake of ours: the run was given up, and what it had not committed never happened.
    #[error("{0} panicked")]
    Panicked(String),
    /// There is no such object.
    #[error("there is no {0}")]
    NotFound(String),
    /// The database did not answer.
    #[error(transparent)]
    Storage(#[from] sqlx::Error),
}

impl WorkflowError {
    /// Whether a later run can succeed without anybody doing anything.
    pub(crate) fn passes_by_itself(&self) -> bool {
        match self {
            WorkflowError::Busy(_)
            | WorkflowError::StripeUnavailable(_)
            | WorkflowError::AskedToWait { .. }
            | WorkflowError::Storage(_) => true,
            WorkflowError::StripeUnauthorized(_)
            | WorkflowError::Refused { .. }
            | WorkflowError::Unbillable { .. }
            | WorkflowError::Panicked(_)
            | WorkflowError::NotFound(_) => false,
        }
    }

    /// For programs, and in front of a job's last error.
    pub fn code(&self) -> &'static str {
        match self {
            WorkflowError::Busy(_) => "busy",
            WorkflowError::StripeUnavailable(_) | WorkflowError::AskedToWait { .. } => "stripe_unavailable",
            WorkflowError::StripeUnauthorized(_) => "stripe_unauthorized",
            WorkflowError::Refused { .. } => "stripe_refused",
            WorkflowError::Unbillable { .. } => "unbillable",
            WorkflowError::Panicked(_) => "panicked",
            WorkflowError::NotFound(_) => "not_found",
            WorkflowError::Storage(_) => "storage",
        }
    }

    /// What a read or a write that came to nothing means for the workflow.
    pub(crate) fn of_stripe(what: &str, error: StripeError) -> WorkflowError {
        match error {
            StripeError::Refused(refusal) => WorkflowError::Refused { what: what.to_owned(), refusal },
            StripeError::Unauthorized(refusal) => WorkflowError::StripeUnauthorized(refusal.to_string()),
            StripeError::Later { after: Some(wait), .. } => {
                WorkflowError::AskedToWait { why: format!("{what}: {error}"), wait }
            }
            other => WorkflowError::StripeUnavailable(format!("{what}: {other}")),
        }
    }
}

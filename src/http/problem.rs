//! Problems: every error is `application/problem+json` (RFC 9457), and each kind has a page that says what to do.

use axum::Json;
use axum::http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use serde::Serialize;
use tracing::error;
use utoipa::ToSchema;

use super::html;
use super::kind::{self, Kind};
use crate::workflows::WorkflowError;
use crate::workflows::by::ChangeError;

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// Where: a JSON pointer into the body, or the name of a query parameter.
    #[schema(example = "/tiers/0/up_to")]
    pub pointer: String,
    /// Why, for programs.
    #[schema(example = "missing_field")]
    pub code: String,
    /// Why, for people.
    pub detail: String,
}

/// An error that says what happened and what to do. Handlers answer `Result<_, Problem>`.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Which of the known kinds.
    pub kind: &'static Kind,
    /// This occurrence, for people.
    pub detail: String,
    /// Each field that is at fault.
    pub errors: Vec<FieldError>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// A problem of this kind, with what is particular about this occurrence.
    pub fn new(kind: &'static Kind, detail: impl Into<String>) -> Problem {
        Problem { kind, detail: detail.into(), errors: Vec::new(), headers: Vec::new() }
    }

    /// One field is at fault.
    pub fn field(
        kind: &'static Kind,
        pointer: impl Into<String>,
        code: &str,
        detail: impl Into<String>,
    ) -> Problem {
        Problem::new(kind, "").and(pointer, code, detail)
    }

    /// A field is not valid, for a reason that has no kind of its own.
    pub fn invalid(pointer: impl Into<String>, code: &str, detail: impl Into<String>) -> Problem {
        Problem::field(&kind::VALIDATION_FAILED, pointer, code, detail)
    }

    /// There is no such object, or not for this caller.
    pub fn not_found(detail: impl Into<String>) -> Problem {
        Problem::new(&kind::NOT_FOUND, detail)
    }

    /// Another field is at fault as well. The first one speaks for the whole where nothing else does.
    pub fn and(mut self, pointer: impl Into<String>, code: &str, detail: impl Into<String>) -> Problem {
        let error = FieldError { pointer: pointer.into(), code: code.to_owned(), detail: detail.into() };
        if self.detail.is_empty() {
            self.detail = format!("{}: {}", error.pointer, error.detail);
        }
        self.errors.push(error);
        self
    }

    /// Adds a header to the answer.
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Problem {
        self.headers.push((name, value));
        self
    }

    /// Tells the client when to come again.
    pub fn retry_after(self, seconds: u64) -> Problem {
        self.header(RETRY_AFTER, HeaderValue::from(seconds))
    }

    /// The answer in full. `request_id` lets the operator find its log line.
    pub(crate) fn render(&self, public_url: &str, request_id: &str) -> axum::response::Response {
        let body = Body {
            r#type: format!("{public_url}/problems/{}", self.kind.slug),
            title: self.kind.title,
            status: self.kind.status,
            detail: &self.detail,
            instance: request_id,
            errors: &self.errors,
        };
        let status = StatusCode::from_u16(self.kind.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        for (name, value) in &self.headers {
            headers.insert(name, value.clone());
        }
        response
    }
}

/// What a problem looks like.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct Body<'a> {
    /// Which kind of problem: the address of a page that says what to do.
    r#type: String,
    title: &'a str,
    status: u16,
    /// What is particular about this occurrence.
    detail: &'a str,
    /// The request's id, also in the header Request-Id.
    instance: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(required = false)]
    errors: &'a [FieldError],
}

/// Travels with the response until the outermost layer, which knows the request's id, renders it.
impl IntoResponse for Problem {
    fn into_response(self) -> axum::response::Response {
        let mut response = self.render("", "");
        response.extensions_mut().insert(Box::new(self));
        response
    }
}

/// Renders the problem that a response carries, now that the request's id is known.
pub(crate) fn finish(
    mut response: axum::response::Response,
    public_url: &str,
    request_id: &str,
) -> axum::response::Response {
    let Some(problem) = response.extensions_mut().remove::<Box<Problem>>() else { return response };
    let mut finished = problem.render(public_url, request_id);
    // What layers in between have added, such as Allow or Connection, stays.
    for (name, value) in response.headers() {
        if !finished.headers().contains_key(name) && name != axum::http::header::CONTENT_LENGTH {
            finished.headers_mut().insert(name, value.clone());
        }
    }
    *finished.extensions_mut() = std::mem::take(response.extensions_mut());
    finished
}

/// Whatever the database says, the sender only has to know whether to try again.
impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Problem {
        // Two requests at once, each of which had found the value free.
        if error.as_database_error().is_some_and(|error| error.is_unique_violation()) {
            let detail = "Another object has a value that has to be unique.";
            return Problem::new(&kind::ALREADY_EXISTS, detail);
        }
        error!(%error, "The database failed: {error}");
        let detail = "The database did not answer, so it is not known whether anything was stored. \
                      Send it again with the same Idempotency-Key.";
        Problem::new(&kind::STORAGE_UNAVAILABLE, detail).retry_after(2)
    }
}

/// A change that a workflow did not make.
impl From<ChangeError> for Problem {
    fn from(error: ChangeError) -> Problem {
        match error {
            ChangeError::Storage(error) => error.into(),
            ChangeError::Gone => Problem::not_found("There is no object with this id."),
            ChangeError::Taken(field) => {
                let detail = "another object has this value, which has to be unique";
                Problem::field(&kind::ALREADY_EXISTS, format!("/{field}"), "taken", detail)
            }
            ChangeError::Refused(pointer, code, detail) => Problem::invalid(pointer, code, detail),
            ChangeError::CurrencyMismatch { .. } => Problem::new(&kind::CURRENCY_MISMATCH, error.to_string()),
        }
    }
}

/// A workflow that stopped.
impl From<WorkflowError> for Problem {
    fn from(error: WorkflowError) -> Problem {
        match error {
            WorkflowError::Storage(error) => error.into(),
            WorkflowError::NotFound(_) => Problem::not_found(error.to_string()),
            WorkflowError::StripeUnauthorized(_) => {
                Problem::new(&kind::UPSTREAM_AUTH_FAILED, error.to_string())
            }
            WorkflowError::Refused { .. } => Problem::new(&kind::UPSTREAM_REFUSED, error.to_string()),
            WorkflowError::Panicked(_) => Problem::new(&kind::INTERNAL_ERROR, "The server made a mistake."),
            WorkflowError::Unbillable { .. } => Problem::new(&kind::INVALID_STATE, error.to_string()),
            WorkflowError::Busy(_)
            | WorkflowError::StripeUnavailable(_)
            | WorkflowError::AskedToWait { .. } => {
                Problem::new(&kind::UPSTREAM_UNAVAILABLE, error.to_string()).retry_after(5)
            }
        }
    }
}

/// The page behind a problem's `type`.
pub(crate) async fn page(
    super::extract::Path(slug): super::extract::Path<String>,
) -> Result<Response<axum::body::Body>, Problem> {
    let kind = kind::ALL.iter().find(|kind| kind.slug == slug);
    let kind = kind.ok_or_else(|| Problem::not_found("There is no such kind of problem."))?;
    let text = format!(
        "<p class=\"status\">HTTP {}</p>\n<h1>{}</h1>\n<p>{}</p>\n<p><a href=\"/problems\">All problems</a> · <a href=\"/docs\">API</a></p>",
        kind.status,
        html::escape(kind.title),
        html::escape(kind.help)
    );
    Ok(html::page(kind.title, &text))
}

/// The list of all kinds.
pub(crate) async fn index() -> Response<axum::body::Body> {
    let rows: String = kind::ALL.iter().map(|kind| row(kind)).collect();
    html::page("Problems", &format!("<h1>Problems</h1>\n<table>\n{rows}</table>"))
}

fn row(kind: &Kind) -> String {
    format!(
        "<tr><td>{}</td><td><a href=\"/problems/{slug}\">{slug}</a></td><td>{}</td></tr>\n",
        kind.status,
        html::escape(kind.title),
        slug = kind.slug
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_slug_of_its_own_and_an_error_status() {
        let mut slugs: Vec<_> = kind::ALL.iter().map(|kind| kind.slug).collect();
        slugs.sort_unstable();
        slugs.dedup();
        assert_eq!(slugs.len(), kind::ALL.len());
        assert!(kind::ALL.iter().all(|kind| (400..=599).contains(&kind.status)));
    }

    #[test]
    fn a_database_error_shows_no_internals() {
        let problem = Problem::from(sqlx::Error::Protocol("password=canary".into()));
        assert_eq!(problem.kind, &kind::STORAGE_UNAVAILABLE);
        assert!(!problem.detail.contains("canary"));
    }
}

//! Health: whether the process is alive. Whether it is ready to work is another question.

/// Is the process alive?
///
/// Answers as long as the process can answer anything; it asks neither the database nor Stripe.
#[utoipa::path(get, path = "/healthz", tag = "Health", responses((status = 200, body = String, content_type = "text/plain")))]
pub(crate) async fn alive() -> &'static str {
    "ok\n"
}

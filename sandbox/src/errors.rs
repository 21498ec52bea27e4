//! Errors: the shapes and codes with which Stripe refuses.

use serde_json::{Value, json};

/// A refusal, complete enough to become Stripe's error body.
#[derive(Debug, Clone)]
pub(super) struct ApiError {
    pub status: u16,
    kind: &'static str,
    pub code: Option<Box<str>>,
    message: Box<str>,
    param: Option<Box<str>>,
    decline_code: Option<&'static str>,
    /// What the `Stripe-Rate-Limited-Reason` header says, if it is there.
    pub rate_limited_reason: Option<String>,
    /// Requests that died waiting for a lock never got an id at Stripe.
    pub without_request_id: bool,
    declined: Option<Box<Declined>>,
}

/// What a bank said no to.
#[derive(Debug, Clone, Default)]
struct Declined {
    method: Option<Value>,
    /// `ch_…`
    charge: Option<String>,
}

/// What a handler answers.
pub(super) type Answer = Result<Value, ApiError>;

impl ApiError {
    /// A refused request: 400, type `invalid_request_error`.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self {
            status: 400,
            kind: "invalid_request_error",
            code: None,
            message: message.into().into(),
            param: None,
            decline_code: None,
            rate_limited_reason: None,
            without_request_id: false,
            declined: None,
        }
    }

    pub(crate) fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    pub(crate) fn code(mut self, code: impl Into<String>) -> Self {
        self.code = Some(code.into().into());
        self
    }

    pub(crate) fn param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into().into());
        self
    }

    pub(crate) fn missing(param: &str) -> Self {
        Self::invalid(format!("Missing required param: {param}.")).code("parameter_missing").param(param)
    }

    pub(crate) fn unknown(params: &[String]) -> Self {
        let plural = if params.len() == 1 { "" } else { "s" };
        let first = params.first().cloned().unwrap_or_default();
        Self::invalid(format!("Received unknown parameter{plural}: {}", params.join(", ")))
            .code("parameter_unknown")
            .param(first)
    }

    pub(crate) fn exclusive(one: &str, other: &str) -> Self {
        Self::invalid(format!("You may only specify one of these parameters: {one}, {other}."))
            .code("parameters_exclusive")
            .param(one)
    }

    /// An id in a parameter that names nothing: 400, unlike an id in the path.
    pub(crate) fn no_such(what: &str, id: &str, param: &str) -> Self {
        Self::invalid(format!("No such {what}: '{id}'")).code("resource_missing").param(param)
    }

    /// An id in the path that names nothing.
    pub(crate) fn not_found(what: &str, id: &str, param: &str) -> Self {
        Self::no_such(what, id, param).status(404)
    }

    pub(crate) fn not_editable(message: &str) -> Self {
        Self::invalid(message).code("invoice_not_editable")
    }

    /// The issuer said no: 402, `card_declined` with its decline code.
    pub(crate) fn declined(
        code: &str,
        decline_code: Option<&'static str>,
        message: &str,
        method: Value,
    ) -> Self {
        let mut error = Self::invalid(message).status(402).code(code);
        error.kind = "card_error";
        error.decline_code = decline_code;
        error.declined = Some(Box::new(Declined { method: Some(method), charge: None }));
        error
    }

    pub(crate) fn idempotency(message: &str) -> Self {
        let mut error = Self::invalid(message);
        error.kind = "idempotency_error";
        error
    }

    /// The same key is being worked on right now.
    pub(crate) fn key_in_use() -> Self {
        let message = "A request with this idempotency key is still being processed. Try again shortly.";
        Self::idempotency(message).status(409).code("idempotency_key_in_use")
    }

    pub(crate) fn rate_limited(reason: Option<String>) -> Self {
        let mut error =
            Self::invalid("Too many requests hit the API in a short time. Slow down and try again.");
        error.rate_limited_reason = reason;
        error.status(429).code("rate_limit")
    }

    pub(crate) fn lock_timeout() -> Self {
        let message = "Another request is working on this object. Nothing was changed; try again.";
        let mut error = Self::invalid(message).status(429).code("lock_timeout");
        error.without_request_id = true;
        error
    }

    /// Something broke on Stripe's side.
    pub(crate) fn api(status: u16, code: Option<String>) -> Self {
        let mut error = Self::invalid("Something went wrong on our end.").status(status);
        error.kind = match status {
            ..=401 | 403..=499 => "invalid_request_error",
            402 => "card_error",
            _ => "api_error",
        };
        error.code = code.map(Into::into);
        error
    }

    /// It came to a charge, `ch_…`.
    pub(crate) fn charge_is(mut self, id: String) -> Self {
        self.declined.get_or_insert_default().charge = Some(id);
        self
    }

    fn charge(&self) -> Option<&str> {
        self.declined.as_ref()?.charge.as_deref()
    }

    /// The error as a payment keeps it.
    pub(crate) fn as_last_payment_error(&self) -> Value {
        let mut shown = json!({ "type": self.kind, "message": self.message });
        let fields = [
            ("code", self.code.as_deref()),
            ("decline_code", self.decline_code),
            ("param", self.param.as_deref()),
            ("charge", self.charge()),
        ];
        for (name, value) in fields.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            shown[name] = json!(value);
        }
        shown
    }

    /// The error body, with a link to the log entry of `request_id`.
    pub(crate) fn body(&self, request_id: &str, livemode: bool) -> Value {
        let mut error = json!({ "type": self.kind, "message": self.message });
        let mode = if livemode { "" } else { "test/" };
        if let Some(code) = &self.code {
            error["code"] = json!(code);
            error["doc_url"] =
                json!(format!("https://stripe.com/docs/error-codes/{}", code.replace('_', "-")));
        }
        if let Some(param) = &self.param {
            error["param"] = json!(param);
        }
        if let Some(decline_code) = self.decline_code {
            error["decline_code"] = json!(decline_code);
        }
        if let Some(charge) = self.charge() {
            error["charge"] = json!(charge);
        }
        if let Some(method) = self.declined.as_ref().and_then(|declined| declined.method.as_ref()) {
            error["payment_method"] = method.clone();
        }
        if !self.without_request_id {
            let url = format!("https://dashboard.stripe.com/{mode}logs/{request_id}");
            error["request_log_url"] = json!(url);
        }
        json!({ "error": error })
    }
}

impl ApiError {
    /// The same refusal of the item at `index` of the list `list`.
    pub(crate) fn inside(mut self, list: &str, index: usize) -> Self {
        self.param = self.param.map(|param| match param.split_once('[') {
            Some((name, rest)) => format!("{list}[{index}][{name}][{rest}").into(),
            None => format!("{list}[{index}][{param}]").into(),
        });
        self
    }
}

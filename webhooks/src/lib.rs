//! Verify a Stripe webhook signature and read the event. Pure: no I/O, and `now` is an argument.

/// The webhook endpoint's signing secrets.
#[derive(Clone)]
pub struct Secrets(Vec<String>);

impl Secrets {
    /// Several by comma.
    pub fn parse(text: &str) -> Result<Secrets, String> {
        Ok(Secrets(text.split(',').map(str::to_owned).collect()))
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[secrets]")
    }
}

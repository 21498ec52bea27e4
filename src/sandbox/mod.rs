//! A stateful stand-in for Stripe: an HTTP router of its own.

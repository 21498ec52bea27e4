//! Verify a Stripe webhook signature and read the event. Pure: no I/O, and `now` is an argument.

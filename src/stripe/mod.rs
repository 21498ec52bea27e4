//! Stripe behind one port.

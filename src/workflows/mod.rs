//! One file per thing the service does. The only place where effects happen in order.

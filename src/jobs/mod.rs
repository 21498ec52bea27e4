//! The durable queue, its workers and the schedule.

//! Internals: what the tests, the benches and the simulation use beyond the public surface. Nothing here is stable.
#![allow(missing_docs, reason = "each item is documented where it is defined")]

pub mod app {
    pub use crate::app::{App, build, build_with};
}
pub mod clock {
    pub use crate::clock::{Clock, Ids, from_ms, prefix};
}
pub mod commands {
    pub mod dunning {
        pub use crate::commands::dunning::ladder;
    }
    pub mod keys {
        pub use crate::commands::keys::{create, revoke};
    }
    pub mod link {
        pub use crate::commands::link::create;
    }
    pub mod open {
        pub use crate::commands::open::for_a_server;
    }
}
pub mod config {
    pub use crate::config::{Config, SETTINGS, toml_key};
}
pub mod failpoint {
    pub use crate::failpoint::Failpoint;
    #[cfg(feature = "failpoints")]
    pub use crate::failpoint::set_hook;
}
pub mod http {
    pub use crate::http::{route_list, router, router_with};
    pub mod extract {
        pub use crate::http::extract::Limits;
    }
    pub mod kind {
        pub use crate::http::kind::ALL;
    }
    pub mod routes {
        pub use crate::http::routes::{Access, RouteInfo};
    }
    pub mod serve {
        pub use crate::http::serve::serve;
    }
    pub mod webhooks {
        pub use crate::http::webhooks::believe;
    }
}
pub mod jobs {
    pub use crate::jobs::{TICKS, Tick, run_due, run_one, tick, work};
    pub mod schedule {
        pub use crate::jobs::schedule::{
            CHARGE_ALL, CLOSE_DUE, GENERATE_MONTH, POLL_EVENTS, RETRY_FUNDS, RETRY_NETWORK, SYNC_CHANGED,
            TICKS, tick,
        };
    }
}
pub mod mailer {
    pub use crate::mailer::{Carrier, CarryFuture, Email, HandOver, KINDS, Mailer, Outbox, Outcome};
}
pub mod outgoing {
    pub use crate::outgoing::{Listener, Outgoing, Post, PostFuture, Poster};
}
pub mod store {
    pub use crate::store::{
        AmountFilter, Attempt, Charge, CustomerImport, Db, EmailFilter, Invoice, Item, Job, Location,
        LookedUpAmount, NewCharge, NewEmail, NewIncident, NewJob, NewStripeEvent, Page, ReportFilter, Row,
        Sql, Store, StoredEmail, both,
    };
    pub mod api_keys {
        pub use crate::store::api_keys::Scope;
    }
    pub mod customers {
        pub use crate::store::customers::{Customer, CustomerState, lock, update};
    }
    pub mod usage {
        pub use crate::store::usage::{Known, record};
    }
}
pub mod stripe {
    pub use crate::stripe::{
        HttpTransport, Method, Pacer, Rates, Request, Response, SendFuture, Stripe, Transport, Write,
    };
}
pub mod workflows {
    pub mod amounts {
        pub use crate::workflows::amounts::{accept, ask_again, look_up};
    }
    pub mod ask {
        pub use crate::workflows::ask::{SYNC, ask_for_changed, ask_for_due, settled, sync_now};
    }
    pub mod billing_view {
        pub use crate::workflows::billing_view::billing_view;
    }
    pub mod by {
        pub use crate::workflows::by::By;
    }
    pub mod catalog {
        pub use crate::workflows::catalog::{NewMeter, create_meter, create_price};
    }
    pub mod charge {
        pub use crate::workflows::charge::{
            CHARGE, ManualError, ask_for_due, ask_for_failed, charge, known_before, mark_uncollectible, pay,
            rebill, retry, void,
        };
    }
    pub mod customers {
        pub use crate::workflows::customers::{CustomerChange, NewCustomer, create, update};
    }
    pub mod drift {
        pub use crate::workflows::drift::{
            Comparison, Difference, Extent, Reason, Repair, compare, repair, report, watch,
        };
    }
    pub mod email {
        pub use crate::workflows::email::{Resent, Undelivered, preview, resend, resend_all};
    }
    pub mod generate {
        pub use crate::workflows::generate::{GENERATE, Planned, generate, plan};
    }
    pub mod imports {
        pub use crate::workflows::imports::{ImportOptions, Report, Upload, apply_import, carry_on, report};
    }
    pub mod ingest {
        pub use crate::workflows::ingest::{Ingest, Outcome};
    }
    pub mod lease {
        pub use crate::workflows::lease::begin_as_writer;
    }
    pub mod notice {
        pub use crate::workflows::notice::{report, resolve};
    }
    pub mod outgoing {
        pub use crate::workflows::outgoing::{DELIVER, NewEndpoint, create, delete};
    }
    pub mod poll {
        pub use crate::workflows::poll::poll_events;
    }
    pub mod preview {
        pub use crate::workflows::preview::preview;
    }
    pub mod prune {
        pub use crate::workflows::prune::prune;
    }
    pub mod react {
        pub use crate::workflows::react::react;
    }
    pub mod reads {
        pub use crate::workflows::reads::{Stopped, allowance};
    }
    pub mod receive {
        pub use crate::workflows::receive::{REACT, REACTED_TO, receive, replay};
    }
    pub mod remedy {
        pub use crate::workflows::remedy::{REMEDIES, remedy};
    }
    pub mod report {
        pub use crate::workflows::report::{ReportQuery, ageing, counts, revenue, rows, sort, totals};
        pub mod file {
            pub use crate::workflows::report::file::{Format, pieces};
        }
    }
    pub mod services {
        pub use crate::workflows::services::{NewService, create, set_until};
    }
    pub mod silence {
        pub use crate::workflows::silence::{listen, silent_ms};
    }
    pub mod sync {
        pub use crate::workflows::sync::sync;
    }
    pub mod tell {
        pub use crate::workflows::tell::{application, customer};
    }
}
#[cfg(feature = "mutants")]
pub use crate::mutant::{Mutant, activate, is_active};

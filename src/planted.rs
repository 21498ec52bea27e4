//! Planted bugs: mistakes that billing systems have been shipped with, one at a time and on purpose, so that the
//! simulation can show that it would find them. Without the feature `planted_bugs` none of them is compiled in.

macro_rules! bugs {
    ($($bug:ident = $name:literal, $what:literal;)+) => {
        /// One mistake.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bug {
            $(#[doc = $what] $bug,)+
        }

        impl Bug {
            /// Every one of them.
            pub const ALL: &[Bug] = &[$(Bug::$bug,)+];

            /// As the command line names it.
            pub fn name(self) -> &'static str {
                match self { $(Bug::$bug => $name,)+ }
            }

            /// Whether something else in the house makes up for it, so that no history can tell.
            pub fn is_masked(self) -> bool {
                MASKED.iter().any(|(masked, _)| *masked == self)
            }

            /// What is wrong then.
            pub fn what(self) -> &'static str {
                match self { $(Bug::$bug => $what,)+ }
            }
        }
    };
}

bugs! {
    NoIdempotencyKey = "no_idempotency_key", "A request to Stripe that comes again has another key.";
    KeyFromTheValue = "key_from_the_value", "The idempotency key is made of what is written, not of the row that says so.";
    KeysLiveForEver = "keys_live_for_ever", "A write is sent again under its key when Stripe has long forgotten that.";
    StoredFailureForEver = "stored_failure_for_ever", "A stored 500 is asked for again and again, and never read around.";
    BlindCreate = "blind_create", "A draft that may be there already is not looked for before another is opened.";
    BlindCustomer = "blind_customer", "A customer who may be at Stripe already is not looked for before another is made.";
    NoAnswerIsFailure = "no_answer_is_failure", "A write that nobody answered is taken for not done.";
    IntentsForgotten = "intents_forgotten", "What was begun and not finished is not taken up again.";
    AckBeforeCommit = "ack_before_commit", "Usage is acknowledged whether or not the commit went through.";
    NoDedupe = "no_dedupe", "Usage that is sent again counts again.";
    UsageMarksNothing = "usage_marks_nothing", "Usage is stored, and nobody is told that the draft is behind.";
    LateUsageLost = "late_usage_lost", "Usage of an earlier cycle is stored and never billed.";
    NoFinalSync = "no_final_sync", "A cycle is closed with the draft as it is.";
    LeaseNeverChecked = "lease_never_checked", "A writer who slept through his term goes on writing.";
    TermsHaveOneToken = "terms_have_one_token", "A new term has the token of the one before, so no sleeper is told from its successor.";
    LeaseNeverEnds = "lease_never_ends", "The lease of a writer who died is never over.";
    JobNeverTakenOver = "job_never_taken_over", "What a dead worker had claimed stays claimed.";
    JobAskedOnce = "job_asked_once", "A job that is asked for while it runs does not run again.";
    JobGivesUp = "job_gives_up", "What failed once is never tried again.";
    ReactAfterCommit = "react_after_commit", "A webhook is stored, and only then is a reaction asked for.";
    ReactOnce = "react_once", "A webhook is taken for handled before anything was done about it.";
    PayloadIsBelieved = "payload_is_believed", "An invoice is what the last webhook says, however old that is.";
    NoPoll = "no_poll", "Nobody asks for the events that never arrived.";
    FirstTenLines = "first_ten_lines", "The lines that an answer embeds are taken for all lines.";
    PendingItemsStay = "pending_items_stay", "What stood on a deleted draft is left pending.";
    DeletedDraftForgotten = "deleted_draft_forgotten", "What a deleted draft showed is not put on another.";
    EditsStay = "edits_stay", "A line that a human edited is taken for right.";
    OverrideChargedAgain = "override_charged_again", "What a human took off a finalized invoice is charged again.";
    VoidChargedAgain = "void_charged_again", "What stood on a voided invoice is charged again.";
    SealForgetsFolded = "seal_forgets_folded", "The ledger does not say what a folded line carried.";
    NoNextInvoice = "no_next_invoice", "After an invoice is finalized nothing collects what comes.";
    EmptyIsFinalized = "empty_is_finalized", "A draft with nothing on it is finalized.";
    RollSkipsCycles = "roll_skips_cycles", "An empty draft goes on to the running cycle, past those in between.";
    RemovalsForgotten = "removals_forgotten", "A line that is owed no more stays on the draft.";
    SyncedTooFar = "synced_too_far", "A sync says that it has seen usage which came while it ran.";
    ReadTooFar = "read_too_far", "A reading says that it has seen a change which came while it read.";
    RelinkForgets = "relink_forgets", "A customer who is linked again is never billed again.";
    CycleInUtc = "cycle_in_utc", "The customer's midnight is not the one that cuts cycles.";
    MaxIsSum = "max_is_sum", "A meter of the highest value adds its days up.";
    EveryCurrencyHasCents = "every_currency_has_cents", "An amount in yen is sent as if yen had hundredths.";
    NoAuditRow = "no_audit_row", "An invoice is sealed and nobody writes it down.";
    ChargedFirst = "charged_first", "A charge is sent to Stripe before anybody has written down that it will be.";
    ChargedWithoutAsking = "charged_without_asking", "What got no answer is charged again, and nobody asks first how it ended.";
    ChargeUnlocked = "charge_unlocked", "Two may charge one invoice at once.";
    NoticeForEachTry = "notice_for_each_try", "Whoever is told of a failed charge is told of every try.";
    RestoredNever = "restored_never", "Who has paid what they were suspended for stays suspended.";
    UnknownSentAgain = "unknown_sent_again", "An e-mail that may have arrived is sent again.";
    InvoiceEmailForEachDelivery = "invoice_email_for_each_delivery", "An invoice is e-mailed for every delivery of the webhook that says it is finalized.";
    InvoiceEmailAfterCommit = "invoice_email_after_commit", "An invoice is sealed, and only then is its e-mail queued.";
    SomebodyElsesData = "somebody_elses_data", "A look-up by id answers another customer.";
}

/// Bugs that no history shows, and what it is that makes up for each.
const MASKED: &[(Bug, &str)] = &[];

#[cfg(not(feature = "planted_bugs"))]
/// Whether this mistake is made now: never, in what users ship.
pub const fn planted(_bug: Bug) -> bool {
    false
}

#[cfg(feature = "planted_bugs")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

#[cfg(feature = "planted_bugs")]
/// From now on this mistake, and no other, is made on this thread.
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

#[cfg(feature = "planted_bugs")]
/// Whether this mistake is made now.
pub fn planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

//! Mutants: mistakes that billing systems have been shipped with, planted one at a time, so that the simulation can show
//! that it would find them. Without the feature `mutants` none of them is compiled in.

/// Plants a mistake: one statement, which expands to nothing without the feature `mutants`.
///
/// `mutant!(Name, let x = wrong);` shadows a variable. Any other statement runs as it stands: `mutant!(Name, return);`.
macro_rules! mutant {
    ($name:ident, let $variable:ident = $wrong:expr) => {
        #[cfg(feature = "mutants")]
        let $variable = if $crate::mutant::is_active($crate::mutant::Mutant::$name) { $wrong } else { $variable };
    };
    ($name:ident, $($statement:tt)+) => {
        #[cfg(feature = "mutants")]
        {
            if $crate::mutant::is_active($crate::mutant::Mutant::$name) {
                $($statement)+;
            }
        }
    };
}

#[cfg(feature = "mutants")]
pub use listed::{Mutant, activate, is_active};

#[cfg(feature = "mutants")]
mod listed {
    use std::cell::Cell;

    macro_rules! mutants {
        ($($mutant:ident = $name:literal, $mistake:literal;)+) => {
            /// One mistake.
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            pub enum Mutant {
                $(#[doc = $mistake] $mutant,)+
            }

            impl Mutant {
                /// Every mutant.
                pub const ALL: &[Mutant] = &[$(Mutant::$mutant,)+];

                /// The name that the command line uses.
                pub fn name(self) -> &'static str {
                    match self { $(Mutant::$mutant => $name,)+ }
                }

                /// The mistake, in one sentence.
                pub fn mistake(self) -> &'static str {
                    match self { $(Mutant::$mutant => $mistake,)+ }
                }
            }
        };
    }

    mutants! {
        NoIdempotencyKey = "no_idempotency_key", "A repeated request to Stripe carries a new idempotency key.";
        KeyFromTheValue = "key_from_the_value", "The idempotency key is made from the value written, not from the stored row.";
        KeysLiveForEver = "keys_live_for_ever", "A write is repeated under its key after Stripe has forgotten the key.";
        StoredFailureForEver = "stored_failure_for_ever", "A stored 500 is requested again without end and never read around.";
        BlindCreate = "blind_create", "A draft that may exist is not looked for before another one is opened.";
        BlindCustomer = "blind_customer", "A customer that may exist at Stripe is not looked for before another one is made.";
        NoAnswerIsFailure = "no_answer_is_failure", "A write without an answer is taken for not done.";
        IntentsForgotten = "intents_forgotten", "An intent that was begun and not settled is not taken up again.";
        AckBeforeCommit = "ack_before_commit", "Usage is acknowledged whether or not its commit succeeded.";
        NoDedupe = "no_dedupe", "A usage event that is sent again counts again.";
        UsageMarksNothing = "usage_marks_nothing", "Usage is stored, and its customer is not marked as changed.";
        LateUsageLost = "late_usage_lost", "Usage of an earlier cycle is stored and never billed.";
        NoFinalSync = "no_final_sync", "A cycle is closed with the draft as it is.";
        LeaseNeverChecked = "lease_never_checked", "A writer whose lease ended while it slept goes on writing.";
        TermsHaveOneToken = "terms_have_one_token", "A new lease term has the token of the term before it.";
        LeaseNeverEnds = "lease_never_ends", "The lease of a dead writer never ends.";
        JobNeverTakenOver = "job_never_taken_over", "A job that a dead worker had claimed stays claimed.";
        JobAskedOnce = "job_asked_once", "A job that is requested while it runs does not run again.";
        JobGivesUp = "job_gives_up", "A job that failed once is never retried.";
        ReactAfterCommit = "react_after_commit", "A webhook is stored, and its reaction is enqueued in a later transaction.";
        ReactOnce = "react_once", "A webhook counts as handled before anything was done about it.";
        PayloadIsBelieved = "payload_is_believed", "An invoice takes the status of the last webhook, however old that is.";
        NoPoll = "no_poll", "Events that never arrived are never polled for.";
        FirstTenLines = "first_ten_lines", "The ten lines that an answer embeds are taken for all lines.";
        PendingItemsStay = "pending_items_stay", "Items of a deleted draft stay pending.";
        DeletedDraftForgotten = "deleted_draft_forgotten", "Items of a deleted draft are not put on the next draft.";
        EditsStay = "edits_stay", "A line that a human edited is taken for right.";
        OverrideChargedAgain = "override_charged_again", "A line that a human took off a finalized invoice is charged again.";
        VoidChargedAgain = "void_charged_again", "The lines of a voided invoice are charged again.";
        SealForgetsFolded = "seal_forgets_folded", "The ledger does not record which lines a folded line carried.";
        NoNextInvoice = "no_next_invoice", "No current invoice follows a finalized one.";
        EmptyIsFinalized = "empty_is_finalized", "A draft with nothing on it is finalized.";
        RollSkipsCycles = "roll_skips_cycles", "An empty draft is rolled to the running cycle, past the cycles in between.";
        RemovalsForgotten = "removals_forgotten", "A line that is no longer owed stays on the draft.";
        SyncedTooFar = "synced_too_far", "A sync claims to have seen usage that arrived while it ran.";
        ReadTooFar = "read_too_far", "A read-back claims to have seen a change that arrived while it read.";
        RelinkForgets = "relink_forgets", "A customer that is linked to Stripe again is never billed again.";
        CycleInUtc = "cycle_in_utc", "Cycles are cut at midnight UTC, not at the customer's midnight.";
        MaxIsSum = "max_is_sum", "A max meter adds its days up.";
        EveryCurrencyHasCents = "every_currency_has_cents", "An amount in yen is sent as if yen had hundredths.";
        NoAuditRow = "no_audit_row", "An invoice is sealed without an audit row.";
        ChargedFirst = "charged_first", "A charge is sent to Stripe before its attempt is recorded.";
        ChargedWithoutAsking = "charged_without_asking", "An attempt without an answer is repeated before Stripe is asked how it ended.";
        ChargeUnlocked = "charge_unlocked", "Two workers may charge one invoice at once.";
        NoticeForEachTry = "notice_for_each_try", "Every failed attempt sends a notice, not only the first.";
        RestoredNever = "restored_never", "A suspended customer who has paid stays suspended.";
        UnknownSentAgain = "unknown_sent_again", "An e-mail that may have arrived is sent again.";
        InvoiceEmailForEachDelivery = "invoice_email_for_each_delivery", "An invoice is e-mailed for every delivery of its `invoice.finalized`.";
        InvoiceEmailAfterCommit = "invoice_email_after_commit", "An invoice is sealed, and its e-mail is queued in a later transaction.";
        SomebodyElsesData = "somebody_elses_data", "A look-up by id answers another customer.";
    }

    thread_local! {
        static ACTIVE: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// From now on this thread makes this mistake and no other.
    pub fn activate(mutant: Option<Mutant>) {
        ACTIVE.set(mutant);
    }

    /// Whether this thread makes this mistake now.
    pub fn is_active(mutant: Mutant) -> bool {
        ACTIVE.get() == Some(mutant)
    }
}

//! Remedies: for each kind of failure that a human has to see to, what it means and what to press. One table for the
//! console, the API and the command line. No clock, no database.

use std::str::FromStr;

/// What a person can do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Charge an invoice now.
    Pay,
    /// Have the workers try a charge now.
    Retry,
    Void,
    MarkUncollectible,
    Rebill,
    /// Bring a customer's draft in step.
    Sync,
    RetryJob,
    /// React to events of Stripe again.
    Replay,
    /// Leave an event of Stripe alone for good.
    SetAside,
    /// Switch an endpoint of the user's application on, and send what failed.
    SwitchOn,
    /// Send what an endpoint did not take.
    Redeliver,
    Resend,
    /// Compare with Stripe, and put right what policy allows.
    Repair,
    /// Ask Stripe for events that never came.
    Poll,
    Resolve,
}

/// An action in words.
struct Words {
    action: Action,
    name: &'static str,
    label: &'static str,
    /// What pressing it will do.
    does: &'static str,
    /// What is said when it was pressed.
    done: &'static str,
    /// The same through the API and the command line, with `{}` for what it is about; empty where there is none.
    request: &'static str,
    command: &'static str,
}

const WORDS: [Words; 15] = [
    Words {
        action: Pay,
        name: "pay",
        label: "Charge now",
        does: "Charges the customer's payment method at once for all that is open on the invoice, and says what came of it.",
        done: "Stripe was asked to charge it. The invoice shows what came of it.",
        request: "POST /v1/invoices/{}/pay",
        command: "opentab invoices charge {}",
    },
    Words {
        action: Retry,
        name: "retry",
        label: "Retry",
        does: "Has the workers try the charge now, instead of when its ladder says; then the ladder goes on.",
        done: "The workers try the charge now.",
        request: "POST /v1/invoices/{}/retry",
        command: "opentab invoices retry {}",
    },
    Words {
        action: Void,
        name: "void",
        label: "Void",
        does: "Cancels the invoice at Stripe for ever. What stands on it stays counted as billed until you rebill it.",
        done: "Stripe was asked to void it. The invoice shows what came of it.",
        request: "POST /v1/invoices/{}/void",
        command: "opentab invoices void {}",
    },
    Words {
        action: MarkUncollectible,
        name: "mark_uncollectible",
        label: "Write off",
        does: "Marks the invoice as uncollectible at Stripe. Nothing is tried again by itself; it can still be paid.",
        done: "Stripe was asked to mark it as uncollectible. The invoice shows what came of it.",
        request: "POST /v1/invoices/{}/mark_uncollectible",
        command: "opentab invoices mark-uncollectible {}",
    },
    Words {
        action: Rebill,
        name: "rebill",
        label: "Rebill",
        does: "Makes what was voided or taken off owed again: it is on the customer's next draft, once.",
        done: "It is owed again, and goes on the next draft.",
        request: "POST /v1/invoices/{}/rebill",
        command: "opentab invoices rebill {}",
    },
    Words {
        action: Sync,
        name: "sync",
        label: "Sync now",
        does: "Compares what the customer owes with their draft, and brings the draft in step.",
        done: "The customer's draft is being brought in step.",
        request: "POST /sync?customer={}",
        command: "opentab sync --customer {}",
    },
    Words {
        action: RetryJob,
        name: "retry_job",
        label: "Run again",
        does: "Puts the job back into the queue, as if it had not been tried. That is safe however often.",
        done: "The job is queued again.",
        request: "",
        command: "opentab jobs retry {}",
    },
    Words {
        action: Replay,
        name: "replay",
        label: "React again",
        does: "Reacts to the stored event once more. That is safe however often.",
        done: "The event is reacted to again.",
        request: "",
        command: "opentab webhooks replay {}",
    },
    Words {
        action: SetAside,
        name: "set_aside",
        label: "Set aside",
        does: "Leaves the event alone for good. It stays stored, and can be replayed on the command line.",
        done: "The event is set aside.",
        request: "",
        command: "",
    },
    Words {
        action: SwitchOn,
        name: "switch_on",
        label: "Switch on and replay",
        does: "Switches the endpoint on again, and sends everything that waited for it or failed, oldest first.",
        done: "The endpoint is on, and what it missed is being sent.",
        request: "PATCH /v1/webhook_endpoints/{} {\"enabled\":true}",
        command: "",
    },
    Words {
        action: Redeliver,
        name: "redeliver",
        label: "Send again",
        does: "Sends every event again that this endpoint did not take, under the same ids.",
        done: "What failed is being sent again.",
        request: "",
        command: "",
    },
    Words {
        action: Resend,
        name: "resend",
        label: "Send again",
        does: "Sends the e-mail once more under the same Message-ID, to the address that they have now. It may be the second one they get.",
        done: "The e-mail is queued again.",
        request: "POST /v1/emails/{}/resend",
        command: "opentab emails resend {}",
    },
    Words {
        action: Repair,
        name: "repair",
        label: "Compare and repair",
        does: "Compares ledger and drafts with Stripe once more. Drafts are brought in step, Stripe's word on states and \
               amounts is taken, drafts of ours that nobody knows are deleted; what stays different is listed again.",
        done: "The comparison is queued. What it puts right leaves this list.",
        request: "",
        command: "opentab reconcile --repair",
    },
    Words {
        action: Poll,
        name: "poll",
        label: "Ask Stripe for events",
        does: "Asks Stripe for every event that never arrived, and reacts to it.",
        done: "Stripe is being asked for events.",
        request: "",
        command: "",
    },
    Words {
        action: Resolve,
        name: "resolve",
        label: "Resolve",
        does: "Closes the incident, because you have seen to it. Where its cause is still there, another opens.",
        done: "The incident is closed.",
        request: "POST /v1/incidents/{}/resolve",
        command: "opentab incidents resolve {}",
    },
];

impl Action {
    fn words(self) -> &'static Words {
        // Every action has its words: a test holds it. The last of them harms nobody.
        WORDS.iter().find(|words| words.action == self).unwrap_or(&WORDS[WORDS.len() - 1])
    }

    /// As forms and the API name it.
    pub fn as_str(self) -> &'static str {
        self.words().name
    }

    /// What stands on its button.
    pub(crate) fn label(self) -> &'static str {
        self.words().label
    }

    /// One sentence: what pressing it will do.
    pub fn does(self) -> &'static str {
        self.words().does
    }

    /// What is said once it was pressed.
    pub fn done(self) -> &'static str {
        self.words().done
    }

    /// Whether it moves money, or gives it up, so that somebody has to say it twice.
    pub(crate) fn is_confirmed(self) -> bool {
        matches!(self, Pay | Void | MarkUncollectible | Rebill)
    }

    /// The same through the API; none where only the console and the command line can.
    pub fn request(self, subject: &str) -> Option<String> {
        filled(self.words().request, subject)
    }

    /// The same on the command line, where there is a command for it.
    pub fn command(self, subject: &str) -> Option<String> {
        filled(self.words().command, subject)
    }
}

fn filled(template: &str, subject: &str) -> Option<String> {
    (!template.is_empty()).then(|| template.replace("{}", subject))
}

impl FromStr for Action {
    type Err = ();

    fn from_str(name: &str) -> Result<Action, ()> {
        WORDS.iter().find(|words| words.name == name).map(|words| words.action).ok_or(())
    }
}

/// What a kind of failure means, and what to do about it.
#[derive(Debug, PartialEq, Eq)]
pub struct Remedy {
    /// Of an incident; or of what waits without one, such as `job_failed`.
    pub kind: &'static str,
    /// In a few words.
    pub title: &'static str,
    /// What to do about it, in a sentence or two.
    pub advice: &'static str,
    /// The best one first.
    pub actions: &'static [Action],
}

use Action::{
    MarkUncollectible, Pay, Poll, Rebill, Redeliver, Repair, Replay, Resend, Resolve, Retry, RetryJob,
    SetAside, SwitchOn, Sync, Void,
};

macro_rules! remedies {
    ($($kind:literal $title:literal $advice:literal [$($action:expr),*])+) => {
        /// Every kind that there is.
        pub const REMEDIES: &[Remedy] =
            &[$(Remedy { kind: $kind, title: $title, advice: $advice, actions: &[$($action),*] }),+];
    };
}

remedies! {
    // Getting paid
    "charge_insufficient_funds" "Not enough funds"
        "The account did not hold enough. It is tried again by its ladder; you can try now, or write it off."
        [Retry, Pay, MarkUncollectible, Void, Resolve]
    "charge_declined" "Payment declined"
        "The payment method was declined. Ask the customer for another one, then retry."
        [Retry, Pay, MarkUncollectible, Void, Resolve]
    "charge_do_not_try_again" "Payment declined for good"
        "The bank will never say yes to this payment method. Ask the customer for another one: it is tried at once."
        [Pay, MarkUncollectible, Void, Resolve]
    "charge_authentication_required" "The customer has to confirm the payment"
        "The bank asks the customer to confirm. Send them the invoice's link: a blind retry would be refused again."
        [Pay, MarkUncollectible, Void, Resolve]
    "charge_no_payment_method" "No payment method on file"
        "Nothing can be charged until the customer adds a payment method; the invoice's link lets them."
        [Retry, Pay, MarkUncollectible, Void, Resolve]
    "charge_currency_mismatch" "The payment method cannot pay in this currency"
        "Ask the customer for a payment method in the invoice's currency, then retry. Nothing is tried before."
        [Retry, Pay, MarkUncollectible, Void, Resolve]
    "charge_customer_not_found" "Stripe does not know the invoice's customer"
        "Link the customer to another at Stripe; void this invoice and rebill it, so that it goes on a draft there."
        [Void, MarkUncollectible, Resolve]
    "charge_network" "Stripe could not be reached for a charge"
        "It is tried again every few minutes, and how the invoice stands is asked first: nothing is charged twice."
        [Retry, Resolve]
    "charge_unknown" "A charge failed for a reason that Opentab does not know"
        "Read what Stripe said. It is looked at again by itself for a day, then it waits for you."
        [Retry, Pay, MarkUncollectible, Void, Resolve]
    "charge_needs_attention" "Opentab has stopped trying to charge this invoice"
        "Look at the invoice in Stripe's dashboard. Then charge it, void it, or write it off here."
        [Retry, Pay, MarkUncollectible, Void, Resolve]
    "charge_disputed" "The customer disputes a payment"
        "Answer the dispute in Stripe's dashboard before its deadline. It closes here once Stripe says how it ended."
        [Resolve]
    "provider_down" "Stripe cannot be reached"
        "Nothing is lost. Charges wait and are tried every few minutes; this closes once each has its answer. See status.stripe.com."
        [Resolve]
    "stripe_unauthorized" "Stripe does not accept the key"
        "Set STRIPE_SECRET_KEY to a valid key and restart. Nothing is lost; everything goes on from where it stands."
        []

    // Drafts and invoices
    "stripe_refused" "Stripe refused a write"
        "Read Stripe's reason, put it right there or on the customer, and sync. This customer waits; all others go on."
        [Sync, Resolve]
    "out_of_step" "A draft does not become what was written"
        "Somebody or something changes the draft at Stripe while Opentab writes it. Find out who, then sync."
        [Sync, Resolve]
    "outcome_unknown" "Nobody knows what Stripe holds"
        "A write got no answer, and reading it back has failed so far. It is asked every minute; you can ask now."
        [Sync, Resolve]
    "draft_edited" "Somebody changed lines on a draft"
        "The lines are put back. To change what a customer owes, correct the usage or the price instead."
        [Sync, Resolve]
    "foreign_lines" "A draft holds lines of others"
        "They are left alone, and are finalized with the draft. Take them off at Stripe if they should not be billed."
        [Resolve]
    "draft_deleted" "Somebody deleted a draft"
        "Another one was opened for the same cycle, with all that is owed."
        [Sync, Resolve]
    "finalization_failed" "Stripe could not finalize an invoice"
        "Read Stripe's reason and put it right there, often an address or a tax setting, then sync."
        [Sync, Resolve]
    "finalized_early" "Somebody finalized an invoice before its cycle was over"
        "What is used from now on is on the next draft. There is nothing to do, unless it was a mistake: then void and rebill."
        [Resolve, Void]
    "finalized_by_hand" "Somebody finalized an invoice by hand"
        "What it did not show yet is on the next draft. There is nothing to do, unless it was a mistake."
        [Resolve, Void]
    "line_overridden" "Somebody changed a line and finalized it"
        "Their decision stands, and the gap is never charged by itself. If it was a mistake, rebill the difference."
        [Resolve, Rebill]
    "invoice_voided" "Somebody voided an invoice"
        "What stood on it stays counted as billed. If the customer still owes it, rebill it."
        [Rebill, Resolve]
    "drift" "Ledger and Stripe differ"
        "`opentab reconcile` shows each amount. Repairing takes Stripe's word where policy allows, and syncs drafts."
        [Repair, Resolve]
    "reads_used_up" "The day's reads of Stripe are used up"
        "Comparing goes on by itself another day. More payments, or OPENTAB_STRIPE_READS, allow more."
        [Resolve]

    // Amounts from the user's own API
    "lookup_down" "The API that knows your amounts is down"
        "It is left in peace and tried now and then; invoices wait for it, as long as OPENTAB_LOOKUP_WAIT says."
        [Resolve]
    "amount_missing" "An amount is missing"
        "`opentab amounts list` says why. Once the API has it, `opentab amounts retry` asks again: it goes on the next draft."
        [Resolve]
    "amount_differs" "An amount was answered twice, and differently"
        "The first answer stands. `opentab amounts accept ID AMOUNT` takes the other one; the difference goes on the next draft."
        [Resolve]

    // Customers
    "customer_gone_at_stripe" "Stripe no longer has a customer"
        "Usage is still counted, but nothing is billed. Set another stripe_customer_id on the customer, then sync."
        [Sync, Resolve]
    "currency_changed" "A customer has another currency at Stripe"
        "Drafts go on in Opentab's currency. For the other one, make a new customer with services of that currency."
        [Resolve]
    "customer_without_email" "A notice has no address"
        "Set an e-mail address on the customer, and tell them by other means what this one was about."
        [Resolve]
    "invoice_without_address" "Invoices have no address to go to"
        "Set an e-mail address on the customer: what waits for it goes out then, and this closes by itself."
        [Resolve]
    "customers_not_told" "Nobody tells customers that a payment failed"
        "Set OPENTAB_SMTP_URL, or have your application hear of charge.failed. What was not sent is not made up for."
        [Resolve]
    "import_incomplete" "A customer list was not taken in whole"
        "Somebody else changed those customers meanwhile. Import the list again: what holds already is left as it is."
        [Resolve]
    "unknown_customer" "An invoice of a customer that Opentab does not know"
        "Leave it, if something else bills on this Stripe account. Otherwise link a customer to it, then react again."
        [Resolve, Replay]

    // What comes in and goes out
    "stripe_silent" "Stripe's webhooks have stopped"
        "Look whether the endpoint is switched off in Stripe's dashboard. Until one arrives, events are asked for."
        [Poll, Resolve]
    "event_quarantined" "An event of Stripe that Opentab could not place"
        "Read why. If it was a mistake that is mended by now, react again; if it is none of yours, set it aside."
        [Replay, SetAside]
    "webhook_not_delivered" "Your application did not take an event"
        "It was tried ten times over three days. Repair the endpoint, then send what failed again."
        [Redeliver, Resolve]
    "webhook_endpoint_disabled" "An endpoint of your application is switched off"
        "It took nothing for days, or said that it is gone. Repair it, then switch it on. What happened while it was off \
         is at GET /v1/invoices and /v1/charges."
        [SwitchOn, Resolve]
    "deliveries_failed" "Your application missed events"
        "The endpoint takes events again, but these were given up before. Send them again, or let them be forgotten in time."
        [Redeliver]
    "email_unknown" "Nobody knows whether an e-mail arrived"
        "Ask the mail server or the recipient. It is never sent again by itself."
        [Resend, Resolve]
    "email_failed" "An e-mail was not delivered"
        "Put right what the mail server complained of, often the address, then send it again."
        [Resend, Resolve]
    "email_bounced" "An e-mail came back"
        "Ask the customer for another address and set it, then send it again. Where the same one is good again, just send it."
        [Resend, Resolve]
    "job_failed" "A job waits for you"
        "It failed so often that it is not tried by itself any more. Read why, put it right, then run it again."
        [RetryJob]
}

/// What to do about a kind of failure; none for one that nobody has written down.
pub fn remedy(kind: &str) -> Option<&'static Remedy> {
    REMEDIES.iter().find(|remedy| remedy.kind == kind)
}

/// What to press about an incident of this kind. One that this version does not know can still be closed.
pub(crate) fn actions(kind: &str) -> &'static [Action] {
    remedy(kind).map_or(&[Resolve], |remedy| remedy.actions)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use opentab_billing::Reason;

    #[test]
    fn every_action_has_its_own_words_and_is_found_by_its_name() {
        for words in &WORDS {
            assert_eq!(words.action.words().name, words.name);
            assert_eq!(words.name.parse(), Ok(words.action));
            assert!(words.does.ends_with('.') && words.done.ends_with('.'), "{}", words.name);
        }
        let used: BTreeSet<Action> = REMEDIES.iter().flat_map(|remedy| remedy.actions).copied().collect();
        assert_eq!(used.len(), WORDS.len(), "an action that no remedy names, or one without words");
    }

    #[test]
    fn a_kind_stands_in_the_table_once() {
        let kinds: BTreeSet<&str> = REMEDIES.iter().map(|remedy| remedy.kind).collect();
        assert_eq!(kinds.len(), REMEDIES.len());
    }

    #[test]
    fn a_charge_can_fail_for_no_reason_that_has_no_remedy() {
        for reason in Reason::ALL {
            assert!(remedy(&format!("charge_{reason}")).is_some(), "{reason}");
        }
    }

    #[test]
    fn what_moves_money_is_asked_for_twice() {
        for action in [Pay, Void, MarkUncollectible, Rebill] {
            assert!(action.is_confirmed());
        }
        assert!(!Resolve.is_confirmed() && !Retry.is_confirmed());
    }
}

//! Dunning: the states of a charge, why one fails, and what follows each failure.
//!
//! ```text
//!                 +--------------------------------- nothing was sent ----------------------------+
//!                 v                                                                               |
//!             pending ----------> in_progress ----> paid                                          |
//!                                  ^  |  ^  |                                                     |
//!                                  |  |  |  +----> failed(reason) ----> in_progress, by its ladder |
//!                                  |  |  +------- needs_attention <---- failed, in_progress       |
//!                                  |  +---------------------------------------------------------->+
//!                                  +------------- uncollectible
//! ```
//! Whatever is not paid may be seen at Stripe as paid (on the hosted page, out of band), uncollectible or void at any
//! time: that is believed and never fought. `paid` and `void` are ends; what is refunded or disputed stays paid, and the
//! sums stand beside it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::InvoiceState;

/// Where the charge of one invoice is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChargeState {
    /// Nobody has tried yet.
    Pending,
    /// A try is written down, and may be at Stripe: nothing else is tried before its end is known.
    InProgress,
    /// Settled, by whatever way.
    Paid,
    /// The last try came to nothing.
    Failed(Reason),
    /// Nobody knows, and asking has not helped: a human looks.
    NeedsAttention,
    /// Nobody expects it to be paid any more, though it may be.
    Uncollectible,
    /// Cancelled.
    Void,
}

/// Why a try failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The account or card does not hold enough.
    InsufficientFunds,
    /// The issuer said no, for another reason.
    Declined,
    /// The issuer said no for good: lost, stolen, or not to be tried again.
    DoNotTryAgain,
    /// The bank wants the customer in front of a screen.
    AuthenticationRequired,
    /// The payment method cannot pay in the invoice's currency.
    CurrencyMismatch,
    /// Stripe does not know the customer any more.
    CustomerNotFound,
    /// There is nothing to charge.
    NoPaymentMethod,
    /// Stripe could not be reached, or failed.
    Network,
    /// Stripe said something that Opentab does not understand.
    Unknown,
}

/// The text names no state, reason or way to tell.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not known")]
pub struct UnknownWord(pub String);

use ChargeState::{Failed, InProgress, NeedsAttention, Paid, Pending, Uncollectible, Void};
use Reason::{
    AuthenticationRequired, CurrencyMismatch, CustomerNotFound, Declined, DoNotTryAgain, InsufficientFunds,
    Network, NoPaymentMethod, Unknown,
};

impl Reason {
    /// Every reason.
    pub const ALL: [Reason; 9] = [
        Network,
        InsufficientFunds,
        Declined,
        DoNotTryAgain,
        AuthenticationRequired,
        NoPaymentMethod,
        CurrencyMismatch,
        CustomerNotFound,
        Unknown,
    ];

    /// As tables, the API and the configuration write it.
    pub fn as_str(self) -> &'static str {
        match self {
            InsufficientFunds => "insufficient_funds",
            Declined => "declined",
            DoNotTryAgain => "do_not_try_again",
            AuthenticationRequired => "authentication_required",
            CurrencyMismatch => "currency_mismatch",
            CustomerNotFound => "customer_not_found",
            NoPaymentMethod => "no_payment_method",
            Network => "network",
            Unknown => "unknown",
        }
    }

    /// What it is, for people.
    pub fn what(self) -> &'static str {
        match self {
            InsufficientFunds => "the account does not hold enough",
            Declined => "the payment method was declined",
            DoNotTryAgain => "the payment method was declined for good",
            AuthenticationRequired => "the bank asks the customer to confirm the payment",
            CurrencyMismatch => "the payment method cannot pay in this currency",
            CustomerNotFound => "Stripe does not know the customer",
            NoPaymentMethod => "there is no payment method on file",
            Network => "Stripe could not be reached",
            Unknown => "Stripe said something that Opentab does not understand",
        }
    }
}

impl Reason {
    /// Whether another payment method would help.
    pub fn is_about_the_method(self) -> bool {
        match self {
            InsufficientFunds
            | Declined
            | DoNotTryAgain
            | AuthenticationRequired
            | CurrencyMismatch
            | NoPaymentMethod => true,
            CustomerNotFound | Network | Unknown => false,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Reason {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Reason, UnknownWord> {
        let unknown = || UnknownWord(text.chars().take(40).collect());
        Reason::ALL.into_iter().find(|reason| reason.as_str() == text).ok_or_else(unknown)
    }
}

impl ChargeState {
    /// The names of all seven, as tables and the API write them; which reason a failure has stands beside it.
    pub const NAMES: [&str; 7] =
        ["pending", "in_progress", "paid", "failed", "needs_attention", "uncollectible", "void"];

    /// As tables and the API write it.
    pub fn name(self) -> &'static str {
        match self {
            Pending => "pending",
            InProgress => "in_progress",
            Paid => "paid",
            Failed(_) => "failed",
            NeedsAttention => "needs_attention",
            Uncollectible => "uncollectible",
            Void => "void",
        }
    }

    /// Back from what was stored; a failure of no known reason is one of an unknown reason.
    pub fn from_parts(name: &str, reason: Option<&str>) -> Result<ChargeState, UnknownWord> {
        Ok(match name {
            "pending" => Pending,
            "in_progress" => InProgress,
            "paid" => Paid,
            "failed" => Failed(reason.and_then(|text| text.parse().ok()).unwrap_or(Unknown)),
            "needs_attention" => NeedsAttention,
            "uncollectible" => Uncollectible,
            "void" => Void,
            other => return Err(UnknownWord(other.chars().take(40).collect())),
        })
    }

    /// Whether one step leads from here to `next`.
    pub fn can_become(self, next: ChargeState) -> bool {
        match (self, next) {
            (Paid | Void, _) => false,
            (_, Paid | Void) => true,
            (Pending, InProgress | Failed(_) | Uncollectible) => true,
            // Nothing was sent, so it is again what it was before.
            (InProgress, Pending | Failed(_) | NeedsAttention | Uncollectible) => true,
            (Failed(_), InProgress | Failed(_) | NeedsAttention | Uncollectible) => true,
            (NeedsAttention, InProgress | Failed(_) | Uncollectible) => true,
            (Uncollectible, InProgress) => true,
            _ => false,
        }
    }

    /// The state after this was observed of the invoice at Stripe; none where that changes nothing.
    pub fn observe(self, invoice: InvoiceState) -> Option<ChargeState> {
        let seen = ChargeState::of_invoice(invoice)?;
        self.can_become(seen).then_some(seen)
    }

    /// What a finalized invoice says of its charge; an open one says nothing.
    pub fn of_invoice(invoice: InvoiceState) -> Option<ChargeState> {
        match invoice {
            InvoiceState::Paid => Some(Paid),
            InvoiceState::Void => Some(Void),
            InvoiceState::Uncollectible => Some(Uncollectible),
            InvoiceState::Pending | InvoiceState::Draft | InvoiceState::Open | InvoiceState::Deleted => None,
        }
    }

    /// Whether money is still expected.
    pub fn is_unpaid(self) -> bool {
        !matches!(self, Paid | Void | Uncollectible)
    }

    /// The reason of a failure.
    pub fn reason(self) -> Option<Reason> {
        match self {
            Failed(reason) => Some(reason),
            _ => None,
        }
    }
}

impl fmt::Display for ChargeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What Stripe said when it refused to charge.
#[derive(Debug, Clone, Copy, Default)]
pub struct Said<'a> {
    /// The HTTP status of Stripe's answer; 402 means that the payment was declined.
    pub status: u16,
    /// Stripe's error code, such as `card_declined`; None if Stripe gave none.
    pub code: Option<&'a str>,
    /// The issuer's reason as Stripe names it, such as `insufficient_funds`; None if no issuer declined.
    pub decline_code: Option<&'a str>,
    /// What the card network advises, such as `do_not_try_again`; None if it advises nothing.
    pub advice_code: Option<&'a str>,
    /// The request parameter that Stripe objects to, such as `customer`; None if it names none.
    pub param: Option<&'a str>,
    /// Stripe's sentence for people, the only hint to a missing payment method if `code` is None.
    pub message: Option<&'a str>,
}

/// Why Stripe refused to charge. What is not understood is [`Reason::Unknown`]: the invoice is read then, since it may
/// just be paid already.
pub fn classify(said: &Said<'_>) -> Reason {
    let code = said.code.unwrap_or("");
    match said.decline_code.unwrap_or("") {
        "insufficient_funds" | "withdrawal_count_limit_exceeded" | "card_velocity_exceeded" => {
            return InsufficientFunds;
        }
        "currency_not_supported" => return CurrencyMismatch,
        "authentication_required" => return AuthenticationRequired,
        decline_code if is_for_good(decline_code, said) => return DoNotTryAgain,
        _ => {}
    }
    match code {
        "authentication_required"
        | "invoice_payment_intent_requires_action"
        | "payment_intent_authentication_failure"
        | "subscription_payment_intent_requires_action" => AuthenticationRequired,
        "insufficient_funds" => InsufficientFunds,
        "payment_method_currency_mismatch" | "invalid_currency" => CurrencyMismatch,
        "missing" | "invoice_no_payment_method_types" | "payment_method_unexpected_state" => NoPaymentMethod,
        "resource_missing" => missing(said),
        _ if said.status == 402 => Declined,
        _ if names_no_method(said) => NoPaymentMethod,
        _ => Unknown,
    }
}

/// Trying such a card again never helps, and card networks charge for it. What the network advises counts more than the
/// code: `do_not_honor` may be for today or for ever.
fn is_for_good(decline_code: &str, said: &Said<'_>) -> bool {
    said.advice_code == Some("do_not_try_again")
        || FOR_GOOD.contains(&decline_code)
        || FOR_GOOD.contains(&said.code.unwrap_or(""))
}

const FOR_GOOD: &[&str] = &[
    "do_not_try_again",
    "fraudulent",
    "highest_risk_level",
    "incorrect_number",
    "lost_card",
    "merchant_blacklist",
    "pickup_card",
    "restricted_card",
    "revocation_of_all_authorizations",
    "revocation_of_authorization",
    "stolen_card",
    "stop_payment_order",
    "transaction_not_allowed",
];

fn missing(said: &Said<'_>) -> Reason {
    match said.param.unwrap_or("") {
        "customer" => CustomerNotFound,
        "payment_method" | "default_payment_method" | "source" | "card" => NoPaymentMethod,
        _ if names_no_method(said) => NoPaymentMethod,
        _ => Unknown,
    }
}

/// Stripe has no code for it: only its sentence says that there is nothing to charge.
fn names_no_method(said: &Said<'_>) -> bool {
    let message = said.message.unwrap_or("");
    ["default_payment_method", "no attached payment source", "no active card"]
        .iter()
        .any(|words| message.contains(words))
}

const SECOND: i64 = 1_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// Who hears of a failure, once for each cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tell {
    /// Neither the customer nor the operator is notified.
    Nobody,
    /// The customer gets an e-mail.
    Customer,
    /// The operator sees an incident about the invoice.
    Operator,
}

/// What comes after the last try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finally {
    /// It stays as it is, until something changes at Stripe or somebody asks for a try.
    Wait,
    /// The customer is suspended, once their grace is over.
    Suspend,
    /// A human looks.
    NeedsAttention,
}

macro_rules! words {
    ($type:ident: $($variant:ident = $word:literal),+) => {
        impl $type {
            /// As the configuration writes it.
            pub fn as_str(self) -> &'static str {
                match self { $($type::$variant => $word),+ }
            }
        }

        impl FromStr for $type {
            type Err = String;

            fn from_str(text: &str) -> Result<$type, String> {
                match text {
                    $($word => Ok($type::$variant),)+
                    _ => Err(format!("must be one of {}", [$($word),+].join(", "))),
                }
            }
        }
    };
}
words!(Tell: Nobody = "nobody", Customer = "customer", Operator = "operator");
words!(Finally: Wait = "wait", Suspend = "suspend", NeedsAttention = "needs_attention");

/// What follows a failure for one reason. Waits in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strategy {
    /// The wait before the second try, the third, and so on.
    pub retry_after: Vec<i64>,
    /// After those, again and again with this wait; none for no further try.
    pub then_every: Option<i64>,
    /// Who is notified of a failure with this reason.
    pub tell: Tell,
    /// After so many tries in a row the operator hears that the provider is down; 0 for never.
    pub provider_down_after: u32,
    /// What happens to the charge once no further attempt follows.
    pub finally: Finally,
}

impl Strategy {
    /// What holds where the configuration does not say otherwise.
    pub fn default_of(reason: Reason) -> Strategy {
        let (retry_after, then_every, tell, provider_down_after, finally) = match reason {
            Network => (vec![30 * SECOND; 2], Some(5 * MINUTE), Tell::Nobody, 3, Finally::Wait),
            // Days 1, 3, 5 … 17: ten tries in all.
            InsufficientFunds => {
                let waits = std::iter::once(DAY).chain(std::iter::repeat_n(2 * DAY, 8)).collect();
                (waits, None, Tell::Customer, 0, Finally::Suspend)
            }
            // Days 3, 7, 14, 21 and 28: a card is not often better the day after.
            Declined => {
                let waits = vec![3 * DAY, 4 * DAY, 7 * DAY, 7 * DAY, 7 * DAY];
                (waits, None, Tell::Customer, 0, Finally::Suspend)
            }
            // Until the payment method changes, nothing else would come of it.
            DoNotTryAgain | AuthenticationRequired | NoPaymentMethod => {
                (Vec::new(), None, Tell::Customer, 0, Finally::Suspend)
            }
            CurrencyMismatch | CustomerNotFound => (Vec::new(), None, Tell::Operator, 0, Finally::Wait),
            Unknown => {
                let waits = vec![10 * SECOND, MINUTE, 5 * MINUTE, HOUR, DAY];
                (waits, None, Tell::Operator, 0, Finally::NeedsAttention)
            }
        };
        Strategy { retry_after, then_every, tell, provider_down_after, finally }
    }

    /// The wait before the next try, after so many that failed; none where that was the last.
    pub fn wait_after(&self, tries: u32) -> Option<i64> {
        let index = usize::try_from(tries.saturating_sub(1)).unwrap_or(usize::MAX);
        self.retry_after.get(index).copied().or(self.then_every)
    }

    /// How many tries there are in all; none where they never end.
    pub fn tries(&self) -> Option<usize> {
        self.then_every.is_none().then_some(self.retry_after.len() + 1)
    }
}

/// What follows each reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strategies(BTreeMap<Reason, Strategy>);

impl Default for Strategies {
    fn default() -> Strategies {
        Strategies(Reason::ALL.into_iter().map(|reason| (reason, Strategy::default_of(reason))).collect())
    }
}

impl Strategies {
    /// What follows a failure for this reason.
    pub fn of(&self, reason: Reason) -> Strategy {
        self.0.get(&reason).cloned().unwrap_or_else(|| Strategy::default_of(reason))
    }

    /// Puts another strategy in place.
    pub fn set(&mut self, reason: Reason, strategy: Strategy) {
        self.0.insert(reason, strategy);
    }

    /// The wait before an unclear try is looked at for the so-many-eth time; none where a human has to.
    pub fn look_after(&self, looks: u32) -> Option<i64> {
        self.of(Unknown).wait_after(looks + 1)
    }
}

/// What follows one failure. Times in unix milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct After {
    /// The state of the charge from now on: `Failed`, or `NeedsAttention` once the ladder ends there.
    pub state: ChargeState,
    /// When it is tried again by itself.
    pub next_attempt_at: Option<i64>,
    /// When the customer is suspended, unless it is paid before.
    pub suspend_at: Option<i64>,
    /// The operator hears that the provider is down.
    pub provider_down: bool,
}

/// Which rung of its reason's ladder a failure is, from 1. Each ladder is climbed once for an invoice: where reasons take
/// turns, none begins anew. That Stripe cannot be reached says nothing of the invoice, and counts in a row.
pub fn rung(reason: Reason, in_a_row: u32, ever: u32) -> u32 {
    match reason {
        Network => in_a_row,
        // Where Stripe collects there are no tries of ours to count.
        _ => ever.max(in_a_row),
    }
}

/// What follows the failure that is this rung of its reason's ladder. `jitter` is a share of a thousand.
pub fn after_failure(
    strategy: &Strategy,
    reason: Reason,
    tries: u32,
    now: i64,
    grace_until: i64,
    jitter: i64,
) -> After {
    let wait = strategy.wait_after(tries);
    let over = wait.is_none();
    After {
        state: if over && strategy.finally == Finally::NeedsAttention {
            NeedsAttention
        } else {
            Failed(reason)
        },
        next_attempt_at: wait.map(|wait| now.saturating_add(jittered(wait, jitter))),
        suspend_at: (over && strategy.finally == Finally::Suspend).then_some(grace_until.max(now)),
        provider_down: strategy.provider_down_after > 0 && tries >= strategy.provider_down_after,
    }
}

/// Up to a fifth longer, and a minute at most: what failed together does not come back together.
pub fn jittered(wait: i64, jitter: i64) -> i64 {
    let most = (wait / 5).min(MINUTE);
    wait.saturating_add(most.saturating_mul(jitter.clamp(0, 1_000)) / 1_000)
}

/// What is known of a charge when its turn comes. Times in unix milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// The state of the charge as the database holds it.
    pub state: ChargeState,
    /// Opentab charges it; otherwise Stripe does, and we only look.
    pub ours: bool,
    /// A try is written down whose end is not.
    pub under_way: bool,
    /// When the next attempt is due or, during an attempt, the next check of it; None if none is planned.
    pub next_attempt_at: Option<i64>,
    /// Of a suspension that has not been carried out.
    pub suspend_at: Option<i64>,
}

/// What to do for a charge now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing, until something changes.
    Rest,
    /// Nothing before this time.
    Wait(i64),
    /// Ask Stripe how a try has ended.
    Look,
    /// Ask Stripe to charge the invoice.
    Pay,
    /// Suspend the customer: `suspend_at` has passed and the invoice is unpaid.
    Suspend,
}

/// What to do now: first whatever is under way comes to its end.
pub fn step(known: &Known, now: i64) -> Step {
    let due = |at: Option<i64>| at.is_some_and(|at| at <= now);
    if !known.state.is_unpaid() && !known.under_way {
        return Step::Rest;
    }
    if due(known.suspend_at) && !known.under_way {
        return Step::Suspend;
    }
    match known.under_way || !known.ours {
        // Nobody ever said when: at once. What waits for a human goes on waiting.
        true if known.state == InProgress && known.next_attempt_at.is_none() => Step::Look,
        true if due(known.next_attempt_at) => Step::Look,
        false if due(known.next_attempt_at) => Step::Pay,
        _ => [known.next_attempt_at, known.suspend_at]
            .into_iter()
            .flatten()
            // A suspension that is due waits for the end of what is under way, which has a time of its own.
            .filter(|at| *at > now)
            .min()
            .map_or(Step::Rest, Step::Wait),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Strategy;
    use super::*;

    fn all_states() -> Vec<ChargeState> {
        let mut all = vec![Pending, InProgress, Paid, NeedsAttention, Uncollectible, Void];
        all.extend(Reason::ALL.map(Failed));
        all
    }

    #[test]
    fn states_move_only_along_the_drawn_graph() {
        let drawn: [(ChargeState, &[&str]); 7] = [
            (Pending, &["in_progress", "paid", "uncollectible", "void", "failed"]),
            (InProgress, &["pending", "paid", "needs_attention", "uncollectible", "void", "failed"]),
            (Paid, &[]),
            (
                Failed(Declined),
                &["in_progress", "paid", "needs_attention", "uncollectible", "void", "failed"],
            ),
            (NeedsAttention, &["in_progress", "paid", "uncollectible", "void", "failed"]),
            (Uncollectible, &["in_progress", "paid", "void"]),
            (Void, &[]),
        ];
        for (state, next) in drawn {
            let steps =
                all_states().into_iter().filter(|next| state.can_become(*next)).map(ChargeState::name);
            let (mut steps, mut next): (Vec<_>, Vec<_>) = (steps.collect(), next.to_vec());
            steps.sort_unstable();
            steps.dedup();
            next.sort_unstable();
            assert_eq!(steps, next, "{state}");
        }
    }

    #[test]
    fn names_round_trip() {
        for state in all_states() {
            let reason = state.reason().map(Reason::as_str);
            assert_eq!(ChargeState::from_parts(state.name(), reason), Ok(state));
            assert!(ChargeState::NAMES.contains(&state.name()));
        }
        assert!(ChargeState::from_parts("Paid", None).is_err() && "Network".parse::<Reason>().is_err());
    }

    fn of(status: u16, code: &str, decline_code: &str, param: &str, message: &str) -> Reason {
        let some = |text: &'static str| Some(text).filter(|text| !text.is_empty());
        let leak = |text: &str| some(Box::leak(text.to_owned().into_boxed_str()));
        classify(&Said {
            status,
            code: leak(code),
            decline_code: leak(decline_code),
            advice_code: None,
            param: leak(param),
            message: leak(message),
        })
    }

    #[test]
    fn every_refusal_has_its_reason() {
        let no_default = "There is no `default_payment_method` set on this Customer or Invoice.";
        for (status, code, decline_code, param, message, reason) in [
            (402, "card_declined", "insufficient_funds", "", "", InsufficientFunds),
            (402, "card_declined", "generic_decline", "", "", Declined),
            (402, "card_declined", "lost_card", "", "", DoNotTryAgain),
            (402, "card_declined", "stolen_card", "", "", DoNotTryAgain),
            (402, "card_declined", "pickup_card", "", "", DoNotTryAgain),
            (402, "card_declined", "fraudulent", "", "", DoNotTryAgain),
            (402, "incorrect_number", "", "", "", DoNotTryAgain),
            (402, "card_declined", "do_not_honor", "", "", Declined),
            (402, "expired_card", "expired_card", "", "", Declined),
            (402, "card_declined", "currency_not_supported", "", "", CurrencyMismatch),
            (402, "card_declined", "authentication_required", "", "", AuthenticationRequired),
            (402, "invoice_payment_intent_requires_action", "", "", "", AuthenticationRequired),
            (402, "authentication_required", "", "", "", AuthenticationRequired),
            (402, "missing", "", "card", "Cannot charge a customer that has no active card", NoPaymentMethod),
            (400, "", "", "", no_default, NoPaymentMethod),
            (
                400,
                "resource_missing",
                "",
                "",
                "This customer has no attached payment source",
                NoPaymentMethod,
            ),
            (400, "resource_missing", "", "payment_method", "", NoPaymentMethod),
            (400, "resource_missing", "", "customer", "No such customer", CustomerNotFound),
            (404, "resource_missing", "", "id", "No such invoice", Unknown),
            (400, "payment_method_currency_mismatch", "", "", "", CurrencyMismatch),
            (400, "", "", "", "Invoice is already paid", Unknown),
            (400, "surprise", "", "", "", Unknown),
        ] {
            assert_eq!(
                of(status, code, decline_code, param, message),
                reason,
                "{status} {code} {decline_code}"
            );
        }
    }

    #[test]
    fn what_the_network_advises_counts_more_than_the_code() {
        for (decline_code, advice_code, reason) in [
            ("do_not_honor", "do_not_try_again", DoNotTryAgain),
            ("do_not_honor", "try_again_later", Declined),
            ("generic_decline", "do_not_try_again", DoNotTryAgain),
            ("lost_card", "try_again_later", DoNotTryAgain),
        ] {
            let (decline_code, advice_code) = (Some(decline_code), Some(advice_code));
            let said = Said {
                status: 402,
                code: Some("card_declined"),
                decline_code,
                advice_code,
                ..Said::default()
            };
            assert_eq!(classify(&said), reason, "{decline_code:?} {advice_code:?}");
        }
    }

    #[test]
    fn insufficient_funds_are_tried_ten_times_on_odd_days() {
        let strategy = Strategy::default_of(InsufficientFunds);
        let waits = (1..).map_while(|tries| strategy.wait_after(tries));
        let days: Vec<i64> = waits
            .scan(0, |day, wait| {
                *day += wait / DAY;
                Some(*day)
            })
            .collect();
        assert_eq!(days, [1, 3, 5, 7, 9, 11, 13, 15, 17]);
        assert_eq!(strategy.tries(), Some(10));
    }

    #[test]
    fn what_is_under_way_is_looked_at_before_anything_is_tried() {
        let known = Known {
            state: InProgress,
            ours: true,
            under_way: true,
            next_attempt_at: Some(10),
            suspend_at: None,
        };
        assert_eq!(step(&known, 9), Step::Wait(10));
        assert_eq!(step(&known, 10), Step::Look);
        let for_a_human = Known { state: NeedsAttention, next_attempt_at: None, ..known };
        assert_eq!(step(&Known { next_attempt_at: None, ..known }, 0), Step::Look);
        assert_eq!(step(&for_a_human, 0), Step::Rest);
        assert_eq!(step(&Known { suspend_at: Some(0), ..known }, 10), Step::Look);
    }

    fn any_known() -> impl Strategy_<Value = Known> {
        let states = proptest::sample::select(all_states());
        let time = || proptest::option::of(0_i64..100);
        (states, any::<bool>(), any::<bool>(), time(), time()).prop_map(
            |(state, ours, under_way, next_attempt_at, suspend_at)| Known {
                state,
                ours,
                under_way,
                next_attempt_at,
                suspend_at,
            },
        )
    }
    use proptest::strategy::Strategy as Strategy_;

    proptest! {
        #[test]
        fn nothing_is_paid_while_a_try_is_under_way_or_stripe_collects(known in any_known(), now in 0_i64..100) {
            if step(&known, now) == Step::Pay {
                prop_assert!(!known.under_way && known.ours && known.state.is_unpaid());
                prop_assert!(known.next_attempt_at.is_some_and(|at| at <= now));
            }
        }

        #[test]
        fn a_wait_is_never_in_the_past(known in any_known(), now in 0_i64..100) {
            if let Step::Wait(at) = step(&known, now) {
                prop_assert!(at > now, "{at} at {now}");
            }
        }

        #[test]
        fn what_a_failure_leads_to_lies_on_the_graph(tries in 1_u32..40, jitter in 0_i64..=1_000, now in 0_i64..1_000_000) {
            for reason in Reason::ALL {
                let strategy = Strategy::default_of(reason);
                let after = after_failure(&strategy, reason, tries, now, now + 5, jitter);
                prop_assert!(InProgress.can_become(after.state));
                prop_assert!(after.next_attempt_at.is_none_or(|at| at > now));
                // It goes on by itself, or it does not: never both, and a suspension only where it is over.
                prop_assert!(after.next_attempt_at.is_none() || after.suspend_at.is_none());
                if let (Some(wait), Some(at)) = (strategy.wait_after(tries), after.next_attempt_at) {
                    prop_assert!((wait..=wait + wait / 5).contains(&(at - now)));
                }
            }
        }

        #[test]
        fn reasons_that_take_turns_end_all_the_same_and_each_is_told_once(
            reasons in proptest::collection::vec(proptest::sample::select(Reason::ALL.to_vec()), 1..400)
        ) {
            let all: usize = Reason::ALL.iter().filter_map(|reason| Strategy::default_of(*reason).tries()).sum();
            let (mut tried, mut told, mut last) = (Vec::new(), Vec::new(), None);
            for reason in reasons {
                tried.push(reason);
                let ever = u32::try_from(tried.iter().filter(|before| **before == reason).count()).unwrap();
                let in_a_row = match last { Some((before, times)) if before == reason => times + 1, _ => 1 };
                let rung = rung(reason, in_a_row, ever);
                last = Some((reason, rung));
                if rung == 1 && reason != Network {
                    prop_assert!(!told.contains(&reason), "{reason} is told twice");
                    told.push(reason);
                }
                let after = after_failure(&Strategy::default_of(reason), reason, rung, 0, 0, 0);
                if after.next_attempt_at.is_none() {
                    break;
                }
            }
            let counted = tried.iter().filter(|reason| **reason != Network).count();
            prop_assert!(counted <= all, "{counted} tries, and all ladders have {all}");
        }

        #[test]
        fn an_end_is_an_end(next in proptest::sample::select(all_states())) {
            prop_assert!(!Paid.can_become(next) && !Void.can_become(next));
        }
    }
}

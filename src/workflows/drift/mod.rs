//! Drift: compare ledger and drafts with what Stripe holds, to the minor unit, and say every difference.
//!
//! A hundred invoices come with each read, and what is equal costs no more. What looks different is read once more as
//! the customer's only writer, so that nothing that is just on its way is called a difference.

mod difference;
mod judge;
mod repair;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use stripe_client_core::StripeRequest;

pub use self::difference::{Difference, Reason};
use self::judge::{Held, Verdict};
pub use self::repair::{Repair, repair};
use super::lease::as_only_writer;
use super::preview::preview;
use super::reads::{Allowance, Stopped, allowance, read};
use super::{WorkflowError, notice};
use crate::app::App;
use crate::store::{Invoice, Store};
use crate::stripe::{self, InvoiceAnswer, LineAnswer, LinesPage, List, PendingItem};

/// The job that compares and repairs because a person asks; its subject is `all`.
pub(crate) const REPAIR: &str = "repair";
/// What incidents about differences are called.
pub(crate) const INCIDENT: &str = "drift";
/// Where the last comparison is kept, for the metrics.
const LAST: &str = "reconciled";
/// Up to when everything was equal: what was settled before has been compared.
const EQUAL_UNTIL: &str = "reconciled_until";
const PAGE: i64 = 500;
const DAY_MS: i64 = 86_400_000;
/// The states of a finalized invoice at Stripe, in the order in which they can follow each other.
const FINALIZED: &[&str] = &["open", "uncollectible", "paid", "void"];

/// How much there is to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Drafts, what is not paid yet, and what was settled since everything was last equal.
    Recent,
    /// Every invoice that there ever was.
    All,
}

/// What was compared of one currency, in minor units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Value {
    /// Equal on all sides, to the minor unit.
    pub proven: i64,
    pub all: i64,
}

/// What a comparison came to.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Unix milliseconds.
    pub began: i64,
    /// In the order in which they were found.
    pub differences: Vec<Difference>,
    /// Invoices that were compared.
    pub invoices: usize,
    /// Those among them that were being written just then, or wait for their next sync.
    pub under_way: usize,
    /// By currency.
    pub value: BTreeMap<String, Value>,
    /// Stripe reads used in the last 30 days, this comparison included, and how many are allowed.
    pub reads: Allowance,
    /// Why it did not come to its end; what is above was found until then.
    pub stopped: Option<Stopped>,
}

/// The last comparison in short, as the metrics show it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// Unix milliseconds.
    pub at: i64,
    pub differences: usize,
    pub value: BTreeMap<String, Value>,
}

impl Comparison {
    /// Whether all there is to compare was compared, and is equal.
    pub fn is_equal(&self) -> bool {
        self.differences.is_empty() && self.stopped.is_none()
    }
}

/// How many invoices there are to compare, as far as we know.
pub(crate) async fn extent(app: &App, extent: Extent) -> Result<i64, WorkflowError> {
    Ok(app.store.extent_to_compare(since(&app.store, extent).await?).await?.0)
}

/// Compares, and changes nothing but the books about comparing. `watch` hears how many invoices are done.
pub async fn compare(
    app: &App,
    extent: Extent,
    watch: &(dyn Fn(usize) + Sync),
) -> Result<Comparison, WorkflowError> {
    let began = app.clock.now_ms();
    let since = since(&app.store, extent).await?;
    let mut run = Run {
        app,
        watch,
        seen: HashSet::new(),
        left_out: false,
        found: Comparison { began, ..Comparison::default() },
    };
    if let Err(stopped) = run.everything(since).await {
        run.found.stopped = Some(stopped);
    }
    let (mut found, left_out) = (run.found, run.left_out);
    found.reads = allowance(app).await?;
    if found.stopped.is_none() {
        let summary = Summary { at: began, differences: found.differences.len(), value: found.value.clone() };
        app.store.put_setting(LAST, &serde_json::to_string(&summary).unwrap_or_default()).await?;
    }
    if found.is_equal() && !left_out {
        app.store.put_setting(EQUAL_UNTIL, &began.to_string()).await?;
    }
    Ok(found)
}

/// The last comparison that came to its end; none where there was none yet.
pub(crate) async fn last(app: &App) -> Result<Option<Summary>, WorkflowError> {
    let text = app.store.setting(LAST).await?;
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
}

/// Compares by schedule. What Stripe says is learned, as its events would have told us; every other difference is an
/// incident too, which closes where the next comparison finds it gone.
pub async fn watch(app: &App) -> Result<(), WorkflowError> {
    let mut found = compare(app, Extent::Recent, &|_| {}).await?;
    match repair(app, &found.differences, Repair::Learn).await {
        Ok(repaired) => found.differences.retain(|difference| !repaired.has_learned(difference)),
        Err(stopped) => found.stopped = found.stopped.or(Some(stopped)),
    }
    report(app, found).await
}

/// Compares because a person asks, puts right all that policy allows, and says what is left. The drafts that are synced
/// for it are under way by then, so that they are no difference any more.
pub(crate) async fn put_right(app: &App) -> Result<(), WorkflowError> {
    let found = compare(app, Extent::Recent, &|_| {}).await?;
    let stopped = repair(app, &found.differences, Repair::Delete).await.err().or(found.stopped);
    let mut left = compare(app, Extent::Recent, &|_| {}).await?;
    left.stopped = left.stopped.or(stopped);
    report(app, left).await
}

/// Makes incidents of what a comparison found.
///
/// # Errors
/// What stopped the comparison, unless that is the allowance: then it goes on another day.
pub async fn report(app: &App, found: Comparison) -> Result<(), WorkflowError> {
    let mut by_subject: BTreeMap<&str, Vec<&Difference>> = BTreeMap::new();
    for difference in &found.differences {
        by_subject.entry(difference.subject()).or_default().push(difference);
    }
    let now = app.clock.now_ms();
    let reported = app.store.subjects_of_incidents(INCIDENT).await?;
    let mut tx = app.store.db.begin().await?;
    // Sealed since we looked: what was seen was a draft's. The next comparison says what is different now.
    let drafts: Vec<&str> = by_subject.keys().copied().collect();
    for subject in drafts {
        let invoice = tx.lock_invoice(subject).await?;
        if invoice.and_then(|invoice| invoice.sealed_at).is_some_and(|sealed| sealed >= found.began) {
            by_subject.remove(subject);
        }
    }
    if found.stopped.is_none() {
        for (subject,) in reported {
            if !by_subject.contains_key(subject.as_str()) {
                tx.resolve_incident(INCIDENT, &subject, now).await?;
            }
        }
    }
    for (subject, differences) in &by_subject {
        notice::report(app, &mut tx, INCIDENT, subject, &message(differences)).await?;
    }
    match &found.stopped {
        Some(stopped @ Stopped::ReadsUsedUp { .. }) => {
            notice::report(app, &mut tx, "reads_used_up", "stripe", &stopped.to_string()).await?;
        }
        _ => tx.resolve_incident("reads_used_up", "stripe", now).await?,
    }
    tx.commit().await?;
    match found.stopped {
        Some(Stopped::Failed(error)) => Err(error),
        _ => Ok(()),
    }
}

fn message(differences: &[&Difference]) -> String {
    let reasons: BTreeSet<&str> = differences.iter().map(|difference| difference.reason.says()).collect();
    let reasons: Vec<&str> = reasons.into_iter().collect();
    format!(
        "Ledger and Stripe differ: {}. `opentab reconcile` shows the amounts, `opentab reconcile --repair` puts right what it can.",
        reasons.join("; ")
    )
}

async fn since(store: &Store, extent: Extent) -> sqlx::Result<i64> {
    match extent {
        Extent::All => Ok(0),
        Extent::Recent => {
            Ok(store.setting(EQUAL_UNTIL).await?.and_then(|text| text.parse().ok()).unwrap_or(0))
        }
    }
}

/// A comparison under way.
struct Run<'a> {
    app: &'a App,
    watch: &'a (dyn Fn(usize) + Sync),
    /// What Stripe has listed, by our id where there is one.
    seen: HashSet<String>,
    /// A finalized invoice could not be looked at: it has to be looked for again.
    left_out: bool,
    found: Comparison,
}

/// What a closer look came to.
enum Look {
    Equal,
    Differs(Vec<Difference>, Option<i64>),
    UnderWay,
}

impl Run<'_> {
    async fn everything(&mut self, since: i64) -> Result<(), Stopped> {
        self.listed_in("draft", 0).await?;
        for status in FINALIZED {
            self.listed_in(status, self.created_since(status, since).await?).await?;
        }
        self.never_listed(since).await?;
        self.pending_items().await
    }

    /// From when on invoices are listed that stay as they are, in unix seconds: a draft is older than its last state.
    async fn created_since(&self, status: &str, since: i64) -> sqlx::Result<i64> {
        if since == 0 || !matches!(status, "paid" | "void") {
            return Ok(0);
        }
        let (_, oldest) = self.app.store.extent_to_compare(since).await?;
        Ok((oldest.unwrap_or(since).min(since) - DAY_MS) / 1_000)
    }

    async fn listed_in(&mut self, status: &str, since: i64) -> Result<(), Stopped> {
        let mut after: Option<String> = None;
        loop {
            let request = |after: Option<&str>| stripe::invoices_in(status, since, after);
            let page: List<InvoiceAnswer> = self.page("list invoices", request, after.as_deref()).await?;
            for answer in &page.data {
                self.listed(answer).await?;
            }
            after = page.data.last().map(|last| last.id.clone());
            if !page.has_more || after.is_none() {
                return Ok(());
            }
        }
    }

    /// The page behind `after`. Where that was deleted meanwhile it is no cursor: then the list begins anew, and what was
    /// seen is passed over.
    async fn page<T: DeserializeOwned, R: StripeRequest>(
        &self,
        what: &str,
        request: impl Fn(Option<&str>) -> R,
        after: Option<&str>,
    ) -> Result<List<T>, Stopped> {
        match read(self.app, what, request(after)).await {
            Err(Stopped::Failed(WorkflowError::Refused { refusal, .. }))
                if after.is_some() && refusal.param.as_deref() == Some("starting_after") =>
            {
                read(self.app, what, request(None)).await
            }
            page => page,
        }
    }

    async fn listed(&mut self, answer: &InvoiceAnswer) -> Result<(), Stopped> {
        let ours = self.app.store.invoice_at_stripe(&answer.id).await?;
        let ours = ours.filter(|invoice| invoice.state != "deleted");
        if !self.seen.insert(ours.as_ref().map_or(&answer.id, |invoice| &invoice.id).clone()) {
            return Ok(());
        }
        let Some(invoice) = ours else { return self.unknown(answer).await };
        let held = Held::load(self.app, invoice).await?;
        let look = match held.beside(answer, None) {
            Verdict::Equal => Look::Equal,
            _ => self.look_closer(&held.invoice).await?,
        };
        self.conclude(held, look).await
    }

    /// What Stripe should have listed and did not: gone there, or in another state than here.
    async fn never_listed(&mut self, since: i64) -> Result<(), Stopped> {
        let mut after = String::new();
        loop {
            let page = self.app.store.invoices_to_compare(since, &after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after.clone_from(&last.id);
            for invoice in page {
                if self.seen.insert(invoice.id.clone()) {
                    let look = self.look_closer(&invoice).await?;
                    self.conclude(Held::load(self.app, invoice).await?, look).await?;
                }
            }
        }
    }

    /// Reads both sides again while nobody of ours writes to either.
    async fn look_closer(&self, invoice: &Invoice) -> Result<Look, Stopped> {
        let (app, id) = (self.app, &invoice.id);
        let mut stopped = None;
        let looked = as_only_writer(app, &invoice.customer_id, async |_| {
            match closer(app, &invoice.customer_id, id).await {
                Ok(look) => Ok(look),
                Err(Stopped::Failed(error)) => Err(error),
                Err(used_up) => {
                    stopped = Some(used_up);
                    Ok(Look::UnderWay)
                }
            }
        });
        match (looked.await, stopped) {
            (_, Some(stopped)) => Err(stopped),
            (Ok(look), _) => Ok(look),
            (Err(WorkflowError::Busy(_)), _) => Ok(Look::UnderWay),
            (Err(error), _) => Err(error.into()),
        }
    }

    /// Counts the invoice, and on a draft looks at what is owed as well.
    async fn conclude(&mut self, held: Held, look: Look) -> Result<(), Stopped> {
        let (owed, behind) = if held.is_draft() { self.owed(&held).await? } else { (None, Look::Equal) };
        let ours = owed.unwrap_or(held.sum());
        let (mut proven, mut size) = (true, ours.saturating_abs());
        for look in [look, behind] {
            match look {
                Look::Equal => {}
                Look::UnderWay => {
                    self.left_out |= !held.is_draft();
                    self.found.under_way += usize::from(proven);
                    proven = false;
                }
                Look::Differs(differences, at_stripe) => {
                    proven = false;
                    size = size.max(at_stripe.unwrap_or(0).saturating_abs());
                    self.found.differences.extend(differences);
                }
            }
        }
        self.count(&held.invoice.currency, size, proven);
        self.found.invoices += 1;
        (self.watch)(self.found.invoices);
        Ok(())
    }

    fn count(&mut self, currency: &str, size: i64, proven: bool) {
        let value = self.found.value.entry(currency.to_owned()).or_default();
        value.all = value.all.saturating_add(size);
        value.proven = value.proven.saturating_add(if proven { size } else { 0 });
    }

    /// What the customer owes on this draft, and whether it shows that.
    async fn owed(&self, held: &Held) -> Result<(Option<i64>, Look), Stopped> {
        let invoice = &held.invoice;
        let Some(customer) = self.app.store.customer(&invoice.customer_id).await? else {
            return Ok((None, Look::Equal));
        };
        let waits = self.app.store.waits_for_sync(&customer.id, &invoice.cycle).await?;
        let Some(shown) = preview(self.app, &customer).await?.filter(|shown| shown.invoice.id == invoice.id)
        else {
            return Ok((None, Look::UnderWay));
        };
        let look = match (shown.plan.is_empty(), waits || shown.invoice.read_back) {
            (true, _) => Look::Equal,
            (false, true) => Look::UnderWay,
            (false, false) => {
                let behind = Difference::of(invoice, Reason::Behind).amounts(shown.total, held.sum());
                Look::Differs(vec![behind], None)
            }
        };
        Ok((Some(shown.total), look))
    }

    /// An invoice at Stripe that we do not have. Without our mark it is somebody else's; so it is where its customer is
    /// none of ours: another Opentab may work on the account.
    async fn unknown(&mut self, answer: &InvoiceAnswer) -> Result<(), Stopped> {
        let Some(our_id) = answer.our_id() else { return Ok(()) };
        let status = answer.status.as_deref().unwrap_or_default();
        let named = self.app.store.customer_named(answer.customer.as_deref().unwrap_or_default()).await?;
        let customer_id = match self.app.store.invoice(our_id).await? {
            Some(invoice) => Some(invoice.customer_id),
            None => named,
        };
        let Some(customer_id) = customer_id.filter(|_| status != "void") else { return Ok(()) };
        let app = self.app;
        let look = as_only_writer(app, &customer_id, async |_| {
            // Opened just now, or with an answer that is still on its way.
            let known = app.store.invoice_at_stripe(&answer.id).await?.is_some_and(|i| i.state != "deleted");
            Ok(known || !app.store.open_intents(&customer_id).await?.is_empty())
        });
        match look.await {
            Ok(true) | Err(WorkflowError::Busy(_)) => return Ok(()),
            Ok(false) => {}
            Err(error) => return Err(error.into()),
        }
        let reason = if status == "draft" { Reason::OrphanDraft } else { Reason::OrphanInvoice };
        let orphan = Difference::orphan(&customer_id, answer, reason);
        self.count(&orphan.currency, answer.subtotal.saturating_abs(), false);
        self.found.differences.push(orphan);
        Ok(())
    }

    /// Lines of ours that are on no invoice.
    async fn pending_items(&mut self) -> Result<(), Stopped> {
        let mut after: Option<String> = None;
        loop {
            let page: List<PendingItem> =
                self.page("list pending items", stripe::all_pending_items, after.as_deref()).await?;
            for item in page.data.iter().filter(|item| item.item_key().is_some()) {
                if self.seen.insert(item.id.clone()) {
                    self.pending_item(item).await?;
                }
            }
            after = page.data.last().map(|last| last.id.clone());
            if !page.has_more || after.is_none() {
                return Ok(());
            }
        }
    }

    async fn pending_item(&mut self, item: &PendingItem) -> Result<(), Stopped> {
        let customer = item.customer.as_deref().unwrap_or_default();
        let Some(customer_id) = self.app.store.customer_named(customer).await? else { return Ok(()) };
        let currency = item.currency.clone().unwrap_or_default();
        self.count(&currency, item.amount.saturating_abs(), false);
        self.found.differences.push(Difference {
            reason: Reason::PendingItem,
            customer_id: Some(customer_id),
            invoice_id: None,
            stripe_id: Some(item.id.clone()),
            item_key: item.item_key().map(str::to_owned),
            currency,
            ours: None,
            at_stripe: Some(item.amount),
            detail: None,
        });
        Ok(())
    }
}

/// Both sides of one invoice, read while nobody of ours writes.
async fn closer(app: &App, customer_id: &str, invoice_id: &str) -> Result<Look, Stopped> {
    let invoice = app.store.invoice(invoice_id).await?;
    let Some(invoice) = invoice.filter(|invoice| invoice.state != "deleted") else { return Ok(Look::Equal) };
    if !app.store.open_intents(customer_id).await?.is_empty() {
        return Ok(Look::UnderWay);
    }
    let held = Held::load(app, invoice).await?;
    let Some(answer) = retrieve(app, &held.invoice).await? else {
        let missing =
            Difference { ours: Some(held.sum()), ..Difference::of(&held.invoice, Reason::MissingAtStripe) };
        return Ok(Look::Differs(vec![missing], None));
    };
    let verdict = match held.beside(&answer, None) {
        Verdict::NeedsLines => held.beside(&answer, Some(&lines(app, &answer.id).await?)),
        verdict => verdict,
    };
    Ok(match verdict {
        Verdict::Equal | Verdict::NeedsLines => Look::Equal,
        Verdict::Differs(differences) => Look::Differs(differences, Some(answer.subtotal)),
    })
}

/// None where Stripe has no such invoice.
pub(super) async fn retrieve(app: &App, invoice: &Invoice) -> Result<Option<InvoiceAnswer>, Stopped> {
    let stripe_id = invoice.stripe_invoice_id.as_deref().unwrap_or_default();
    match read(app, "read the invoice", stripe::invoice(stripe_id)).await {
        Ok(answer) => Ok(Some(answer)),
        Err(Stopped::Failed(WorkflowError::Refused { refusal, .. })) if refusal.status == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

async fn lines(app: &App, stripe_id: &str) -> Result<Vec<LineAnswer>, Stopped> {
    let mut lines: Vec<LineAnswer> = Vec::new();
    loop {
        let after = lines.last().map(|line| line.id.clone());
        let page: LinesPage = read(app, "read the lines", stripe::lines(stripe_id, after.as_deref())).await?;
        let more = page.has_more && !page.data.is_empty();
        lines.extend(page.data);
        if !more {
            return Ok(lines);
        }
    }
}

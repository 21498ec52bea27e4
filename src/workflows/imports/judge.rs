//! Judge: what each row of a customer list makes of its customer, held against what is stored.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, NaiveDate, Utc};

use super::FieldChange;
use crate::app::App;
use crate::clock::prefix;
use crate::mailer::Locale;
use crate::store::customers::{Customer, CustomerState};
use crate::store::prices::{self, Price};
use crate::store::services::Service;
use crate::store::{ImportRow, Tx};
use crate::workflows::WorkflowError;
use crate::workflows::by::ChangeError;
use crate::workflows::customers::{CustomerChange, apply, changed_fields};
use crate::workflows::services::{NewService, begun};
use opentab_billing::CollectionMethod;
use opentab_input::customer_list::{Fault, Wanted};

/// What a row comes to.
#[derive(Debug)]
pub(super) struct Judged {
    pub line: u64,
    pub external_id: String,
    pub verdict: Result<Verdict, Vec<Fault>>,
}

/// What becomes of a customer.
#[derive(Debug)]
pub(super) struct Verdict {
    /// None where they are new.
    pub before: Option<Customer>,
    pub after: Customer,
    /// What they pay from now on as well.
    pub services: Vec<Service>,
    /// The names of these prices.
    names: Vec<String>,
}

impl Verdict {
    /// `created`, `updated` or `unchanged`.
    pub(super) fn outcome(&self) -> &'static str {
        match &self.before {
            None => "created",
            Some(before) if *before != self.after || !self.services.is_empty() => "updated",
            Some(_) => "unchanged",
        }
    }

    /// What differs; of a new customer nothing is listed.
    pub(super) fn fields(&self) -> Vec<&'static str> {
        let mut fields =
            self.before.as_ref().map_or(Vec::new(), |before| changed_fields(before, &self.after));
        if !self.services.is_empty() {
            fields.push("prices");
        }
        fields
    }

    /// What differs, with what it was and what it becomes; of a new customer what is not as usual.
    pub(super) fn values(&self) -> Vec<FieldChange> {
        let after = values_of(&self.after);
        let before = self.before.as_ref().map_or_else(usual, values_of);
        let find = |all: &[(String, String)], name: &str| {
            all.iter().find(|(field, _)| field == name).map(|(_, value)| value.clone())
        };
        let gone = before.iter().filter(|(name, _)| find(&after, name).is_none());
        let names = after.iter().chain(gone).map(|(name, _)| name);
        let mut all: Vec<FieldChange> = names
            .map(|name| FieldChange {
                field: name.clone(),
                before: find(&before, name),
                after: find(&after, name),
            })
            .filter(|change| change.before != change.after)
            .collect();
        if self.before.is_none() {
            all.iter_mut().for_each(|change| change.before = None);
        }
        all.extend(self.services.iter().zip(&self.names).map(|(service, name)| FieldChange {
            field: "prices".to_owned(),
            before: None,
            after: Some(format!("{name} from {}", service.from)),
        }));
        all
    }
}

/// What a list can say of a customer, as people read it.
fn values_of(customer: &Customer) -> Vec<(String, String)> {
    let day = |day: Option<NaiveDate>| day.map(|day| day.to_string());
    let known = [
        ("name", Some(customer.name.clone())),
        ("email", customer.email.clone()),
        ("currency", Some(customer.currency.to_string())),
        ("time_zone", Some(customer.time_zone.name().to_owned())),
        ("anchor_day", Some(customer.anchor_day.to_string())),
        ("collection_method", Some(customer.collection_method.as_str().to_owned())),
        ("days_until_due", Some(customer.days_until_due.to_string())),
        ("stripe_customer_id", customer.stripe_customer_id.clone()),
        ("locale", Some(customer.locale.clone())),
        ("active_from", day(customer.active_from)),
        ("active_until", day(customer.active_until)),
    ];
    let known = known.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    let metadata = customer.metadata.iter().map(|(key, value)| (format!("metadata.{key}"), value.clone()));
    known.chain(metadata).collect()
}

/// What a new customer is, where a list does not say it.
fn usual() -> Vec<(String, String)> {
    let usual = [
        ("time_zone", "UTC"),
        ("anchor_day", "1"),
        ("collection_method", CollectionMethod::ChargeAutomatically.as_str()),
        ("days_until_due", "30"),
        ("locale", Locale::DEFAULT),
    ];
    usual.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
}

/// What is stored of the customers, ids and prices that some rows name.
#[derive(Default)]
struct Known {
    customers: HashMap<String, Customer>,
    /// Customer id to prices, with the day on which each ends.
    held: HashMap<String, Vec<(String, Option<String>)>>,
    /// Stripe's id to the external id of who has it.
    stripe: HashMap<String, Option<String>>,
    /// Id or name to the prices of that name.
    prices: BTreeMap<String, Vec<Price>>,
}

/// Judges rows in the transaction that applies them, or in one that is given up.
pub(super) async fn judge(app: &App, tx: &mut Tx, rows: &[ImportRow]) -> Result<Vec<Judged>, WorkflowError> {
    let mut wanted = Vec::with_capacity(rows.len());
    for row in rows {
        let read: Wanted = serde_json::from_str(&row.wanted)
            .map_err(|why| WorkflowError::NotFound(format!("readable row {}: {why}", row.line)))?;
        wanted.push((row, read));
    }
    let known = look_up(tx, &wanted).await?;
    let now = app.clock.now();
    let judged = wanted.into_iter().map(|(row, wanted)| {
        let line = u64::try_from(row.line).unwrap_or(0);
        let verdict = known.verdict(app, line, &row.external_id, wanted, now);
        Judged { line, external_id: row.external_id.clone(), verdict }
    });
    Ok(judged.collect())
}

async fn look_up(tx: &mut Tx, wanted: &[(&ImportRow, Wanted)]) -> Result<Known, WorkflowError> {
    let mut known = Known::default();
    let ids: Vec<&str> = wanted.iter().map(|(row, _)| row.external_id.as_str()).collect();
    let customers = tx.customers_by_external_id(&ids).await?;
    if wanted.iter().any(|(_, wanted)| !wanted.prices.is_empty()) {
        let ids: Vec<&str> = customers.iter().map(|customer| customer.id.as_str()).collect();
        for held in tx.prices_held(&ids).await? {
            known.held.entry(held.customer_id).or_default().push((held.price_id, held.until_day));
        }
        known.prices = prices_of(tx, wanted).await?;
    }
    let stripe: Vec<&str> = wanted.iter().filter_map(|(_, w)| w.stripe_customer_id.as_deref()).collect();
    if !stripe.is_empty() {
        known.stripe = tx.stripe_customers_held(&stripe).await?.into_iter().collect();
    }
    known.customers =
        customers.into_iter().filter_map(|found| Some((found.external_id.clone()?, found))).collect();
    Ok(known)
}

async fn prices_of(
    tx: &mut Tx,
    wanted: &[(&ImportRow, Wanted)],
) -> Result<BTreeMap<String, Vec<Price>>, WorkflowError> {
    let names: BTreeSet<&str> =
        wanted.iter().flat_map(|(_, wanted)| &wanted.prices).map(String::as_str).collect();
    let names: Vec<&str> = names.into_iter().collect();
    let mut prices: BTreeMap<String, Vec<Price>> = BTreeMap::new();
    for named in tx.prices_named(&names).await? {
        let Some(price) = prices::read(tx, &named.id).await? else { continue };
        prices.entry(named.name).or_default().push(price.clone());
        prices.insert(named.id, vec![price]);
    }
    Ok(prices)
}

impl Known {
    fn verdict(
        &self,
        app: &App,
        line: u64,
        external_id: &str,
        wanted: Wanted,
        now: DateTime<Utc>,
    ) -> Result<Verdict, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut fault = |column: &str, code: &str, detail: String| {
            faults.push(Fault::new(line, Some(column), code, detail));
        };
        let before = self.customers.get(external_id);
        if let Some(before) = before {
            immutable(before, &wanted, &mut fault);
        }
        if let Some(id) = &wanted.stripe_customer_id
            && self.stripe.get(id).is_some_and(|holder| holder.as_deref() != Some(external_id))
        {
            fault("stripe_customer_id", "taken", "another customer has this id already".to_owned());
        }
        let after = match before {
            Some(before) => changed(before, &wanted, now, &mut fault),
            None => created(app, external_id, &wanted, now, &mut fault),
        };
        let Some(after) = after else { return Err(faults) };
        let (services, names) = self.services(app, &after, &wanted, now, &mut fault);
        if faults.is_empty() {
            Ok(Verdict { before: before.cloned(), after, services, names })
        } else {
            Err(faults)
        }
    }

    /// What they do not pay yet. Nothing ends because a list does not name it.
    fn services(
        &self,
        app: &App,
        customer: &Customer,
        wanted: &Wanted,
        now: DateTime<Utc>,
        fault: &mut impl FnMut(&str, &str, String),
    ) -> (Vec<Service>, Vec<String>) {
        let today = customer.cycle_rule().day_of(now).to_string();
        let held = self.held.get(&customer.id).map_or(&[][..], Vec::as_slice);
        let pays = |price: &str| {
            let goes_on = |until: &Option<String>| until.as_ref().is_none_or(|until| *until > today);
            held.iter().any(|(id, until)| id == price && goes_on(until))
        };
        let (mut services, mut names): (Vec<Service>, Vec<String>) = Default::default();
        for name in &wanted.prices {
            let price = match self.prices.get(name).map(Vec::as_slice) {
                Some([price]) => price,
                None | Some([]) => {
                    fault("prices", "unknown_price", format!("there is no price `{name}`"));
                    continue;
                }
                Some(several) => {
                    let detail = format!("{} prices are called `{name}`; name one by its id", several.len());
                    fault("prices", "ambiguous_price", detail);
                    continue;
                }
            };
            if pays(&price.id) || services.iter().any(|service| service.price_id == price.id) {
                continue;
            }
            let new = NewService {
                customer_id: customer.id.clone(),
                price_id: price.id.clone(),
                from: wanted.services_from,
                until: None,
            };
            match begun(app.ids.new_id(prefix::SERVICE), &new, customer, price, now) {
                Ok(service) => {
                    services.push(service);
                    names.push(price.name.clone());
                }
                Err(ChangeError::Refused("/from", code, why)) => fault("services_from", code, why),
                Err(why) => fault("prices", "refused", format!("`{name}`: {why}")),
            }
        }
        (services, names)
    }
}

fn immutable(before: &Customer, wanted: &Wanted, fault: &mut impl FnMut(&str, &str, String)) {
    let mut check = |column: &str, differs: bool, is: &str| {
        if differs {
            fault(column, "immutable", format!("is {is} and never changes; create another customer"));
        }
    };
    check("currency", wanted.currency.is_some_and(|c| c != before.currency), before.currency.as_str());
    check("time_zone", wanted.time_zone.is_some_and(|z| z != before.time_zone), before.time_zone.name());
    let anchor_day = before.anchor_day.to_string();
    check("anchor_day", wanted.anchor_day.is_some_and(|day| day != before.anchor_day), &anchor_day);
}

fn changed(
    before: &Customer,
    wanted: &Wanted,
    now: DateTime<Utc>,
    fault: &mut impl FnMut(&str, &str, String),
) -> Option<Customer> {
    let change = CustomerChange {
        name: wanted.name.clone(),
        email: wanted.email.clone(),
        external_id: None,
        collection_method: wanted.collection_method,
        days_until_due: wanted.days_until_due,
        suspension_grace_days: None,
        stripe_customer_id: wanted.stripe_customer_id.clone(),
        locale: wanted.locale.clone(),
        active_from: wanted.active_from,
        active_until: wanted.active_until,
        metadata: wanted.metadata.clone(),
    };
    let mut after = before.clone();
    match apply(&mut after, change) {
        Ok(()) => {}
        Err(ChangeError::Refused(pointer, code, why)) => {
            fault(pointer.trim_start_matches('/'), code, why);
            return None;
        }
        Err(why) => {
            fault("external_id", "refused", why.to_string());
            return None;
        }
    }
    if after != *before {
        after.updated_at = now;
    }
    Some(after)
}

fn created(
    app: &App,
    external_id: &str,
    wanted: &Wanted,
    now: DateTime<Utc>,
    fault: &mut impl FnMut(&str, &str, String),
) -> Option<Customer> {
    if wanted.name.is_none() {
        fault("name", "missing", "a new customer needs a name".to_owned());
    }
    if wanted.currency.is_none() {
        fault("currency", "missing", "a new customer needs a currency".to_owned());
    }
    let customer = Customer {
        no: 0,
        id: app.ids.new_id(prefix::CUSTOMER),
        external_id: Some(external_id.to_owned()),
        name: wanted.name.clone()?,
        email: None,
        bounced_email: None,
        currency: wanted.currency?,
        time_zone: wanted.time_zone.unwrap_or(chrono_tz::UTC),
        anchor_day: wanted.anchor_day.unwrap_or(1),
        collection_method: CollectionMethod::ChargeAutomatically,
        days_until_due: 30,
        stripe_customer_id: None,
        state: CustomerState::Active,
        suspended_at: None,
        suspension_grace_days: None,
        locale: Locale::DEFAULT.to_owned(),
        active_from: None,
        active_until: None,
        last_imported_at: Some(now),
        metadata: BTreeMap::new(),
        created_at: now,
        updated_at: now,
    };
    changed(&customer, wanted, now, fault)
}

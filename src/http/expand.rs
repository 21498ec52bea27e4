//! Expand: related objects in full where their ids would stand, for whoever asks with `expand[]`.

use std::collections::HashMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::customers::CustomerView;
use super::extract::{Pairs, shown};
use super::meters::MeterView;
use super::prices::PriceView;
use super::problem::Problem;
use crate::app::App;

/// A related object: its id, or all of it where the request asked for that.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Expandable<T> {
    /// Just the id.
    Id(String),
    /// All of it.
    Object(Box<T>),
}

/// What a request wants in full.
#[derive(Debug, Default)]
pub(crate) struct Expand(Vec<String>);

impl Expand {
    /// Reads `expand[]`; what cannot be expanded is an error rather than silently an id.
    pub(crate) fn from_query(pairs: &mut Pairs, possible: &[&str]) -> Result<Expand, Problem> {
        let mut wanted = pairs.many("expand[]")?;
        wanted.extend(pairs.many("expand")?);
        match wanted.iter().find(|name| !possible.contains(&name.as_str())) {
            None => Ok(Expand(wanted)),
            Some(name) => Err(Problem::invalid(
                "expand[]",
                "cannot_expand",
                format!("`{}` cannot be expanded; {} can", shown(name), possible.join(", ")),
            )),
        }
    }

    /// Whether this, or something inside it, is wanted in full.
    fn wants(&self, name: &str) -> bool {
        self.0.iter().any(|wanted| {
            wanted == name || wanted.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'))
        })
    }
}

/// Loads related objects, each once a request.
pub(crate) struct Expander<'a> {
    app: &'a App,
    expand: &'a Expand,
    customers: HashMap<String, CustomerView>,
    prices: HashMap<String, PriceView>,
    meters: HashMap<String, MeterView>,
}

impl<'a> Expander<'a> {
    /// Nothing loaded yet.
    pub(crate) fn new(app: &'a App, expand: &'a Expand) -> Expander<'a> {
        let (customers, prices, meters) = Default::default();
        Expander { app, expand, customers, prices, meters }
    }

    /// A customer, in full where `name` is wanted.
    pub(crate) async fn customer(
        &mut self,
        name: &str,
        id: String,
    ) -> Result<Expandable<CustomerView>, Problem> {
        if !self.expand.wants(name) {
            return Ok(Expandable::Id(id));
        }
        if !self.customers.contains_key(&id)
            && let Some(found) = self.app.store.customer(&id).await?
        {
            self.customers.insert(id.clone(), CustomerView::new(self.app, found));
        }
        Ok(full(&self.customers, id))
    }

    /// A meter, in full where `name` is wanted.
    pub(crate) async fn meter(&mut self, name: &str, id: String) -> Result<Expandable<MeterView>, Problem> {
        if !self.expand.wants(name) {
            return Ok(Expandable::Id(id));
        }
        if !self.meters.contains_key(&id)
            && let Some(found) = self.app.store.meter(&id).await?
        {
            self.meters.insert(id.clone(), found.into());
        }
        Ok(full(&self.meters, id))
    }

    /// A price, in full where `name` is wanted, and in it its meter where `{name}.meter` is.
    pub(crate) async fn price(&mut self, name: &str, id: String) -> Result<Expandable<PriceView>, Problem> {
        if !self.expand.wants(name) {
            return Ok(Expandable::Id(id));
        }
        if !self.prices.contains_key(&id)
            && let Some(found) = self.app.store.price(&id).await?
        {
            let view = PriceView::new(found, &format!("{name}.meter"), self).await?;
            self.prices.insert(id.clone(), view);
        }
        Ok(full(&self.prices, id))
    }
}

fn full<T: Clone>(loaded: &HashMap<String, T>, id: String) -> Expandable<T> {
    match loaded.get(&id) {
        Some(object) => Expandable::Object(Box::new(object.clone())),
        None => Expandable::Id(id),
    }
}

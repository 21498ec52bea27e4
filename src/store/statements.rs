//! What a statement is made of: services with their prices, exact daily totals, and what was billed before.

use super::{Store, both};

/// A service with its price and, where usage is counted, its meter.
#[derive(Clone, Debug)]
pub struct PricedService {
    pub service_id: String,
    pub price_id: String,
    /// The price's name, as customers see it.
    pub name: String,
    /// The price's terms, as JSON.
    pub terms: String,
    pub meter_no: Option<i64>,
    pub meter_id: Option<String>,
    pub aggregation: Option<String>,
    pub decimals: Option<i64>,
    pub unit_label: Option<String>,
    pub from_day: String,
    pub(crate) until_day: Option<String>,
}

from_row!(PricedService {
    service_id,
    price_id,
    name,
    terms,
    meter_no,
    meter_id,
    aggregation,
    decimals,
    unit_label,
    from_day,
    until_day
});

/// The exact total of one meter and local day.
#[derive(Clone, Debug)]
pub struct UsageDay {
    pub meter_id: String,
    pub day: String,
    pub quantity: i64,
    pub events: i64,
}

from_row!(UsageDay { meter_id, day, quantity, events });

impl Store {
    /// Every service that a customer has or had.
    pub async fn priced_services(&self, customer_id: &str) -> sqlx::Result<Vec<PricedService>> {
        let sql = both(
            "select service.id as service_id, price.id as price_id, price.name as name, price.terms as terms,
                    meter.no as meter_no, meter.id as meter_id, meter.aggregation as aggregation,
                    meter.decimals as decimals, meter.unit_label as unit_label,
                    service.from_day as from_day, service.until_day as until_day
             from service
             join price on price.id = service.price_id
             left join meter on meter.id = price.meter_id
             where service.customer_id = $1
             order by service.id",
        );
        self.db.all(sql, (customer_id,)).await
    }

    /// A customer's daily totals from a day until before another; among them, under its service's id, what was looked up
    /// for the cycle that begins on that day.
    pub async fn usage_days(&self, customer_no: i64, from: &str, until: &str) -> sqlx::Result<Vec<UsageDay>> {
        let sql = both(
            "select meter.id as meter_id, usage_total.day as day, usage_total.quantity as quantity,
                    usage_total.events as events
             from usage_total join meter on meter.no = usage_total.meter_no
             where usage_total.customer_no = $1 and usage_total.day >= $2 and usage_total.day < $3
             union all
             select looked_up_amount.service_id, looked_up_amount.cycle, looked_up_amount.amount, 1
             from customer join looked_up_amount on looked_up_amount.customer_id = customer.id
             where customer.no = $1 and looked_up_amount.cycle = $2 and looked_up_amount.state = 'known'
             order by day",
        );
        self.db.all(sql, (customer_no, from, until)).await
    }

    /// What sealed invoices hold per item key, for the cycles from this one on.
    pub async fn billed(&self, customer_id: &str, from_cycle: &str) -> sqlx::Result<Vec<(String, i64)>> {
        let sql = both(
            "select item_key, cast(sum(amount - rebilled_amount) as bigint) from invoice_line
             where customer_id = $1 and item_key >= $2
             group by item_key",
        );
        mutant!(VoidChargedAgain, let sql = both(
            "select item_key, cast(sum(amount - rebilled_amount) as bigint) from invoice_line
             where customer_id = $1 and item_key >= $2
                 and invoice_id not in (select id from invoice where state = 'void')
             group by item_key",
        ));
        self.db.all(sql, (customer_id, from_cycle)).await
    }
}

//! What is owed: pure functions of plain values. No I/O, no clock, no ids.

pub mod compare;
pub mod cycle;
pub mod decimal;
pub mod dunning;
pub mod fold;
pub mod invoice;
pub mod meter;
pub mod money;
pub mod price;
pub mod quantity;
pub mod reconcile;
pub mod statement;

pub use compare::{LineDifference, compare_lines};
pub use cycle::{BillingCycle, CycleRule};
pub use decimal::{Decimal, DecimalError};
pub use dunning::{ChargeState, Reason, Strategies, Strategy};
pub use fold::{FoldOverflow, fold};
pub use invoice::{CollectionMethod, InvoiceState};
pub use meter::{Aggregation, DayTotal, quantity_over};
pub use money::{Currency, Money, MoneyError, UnknownCurrency};
pub use price::{AmountOverflow, Model, PriceError, PricePart, PriceTerms, Tier};
pub use quantity::{Quantity, QuantityError};
pub use reconcile::{DraftItem, Plan, WantedItem, apply, reconcile};
pub use statement::{
    CycleUsage, ItemKey, MeterTerms, OwedLine, ServiceTerms, Statement, StatementError, StatementLine,
    StatementScope, owed, statement, statement_of,
};

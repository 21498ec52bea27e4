//! Price: what a quantity costs, in Stripe's words and to the last decimal.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, de};
use thiserror::Error;

use super::{
    decimal::Decimal,
    money::{Currency, Money},
    quantity::Quantity,
};

/// How a quantity becomes an amount. `unit_amount_decimal` is in minor units (cents), as Stripe's is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "model", rename_all = "snake_case", deny_unknown_fields)]
pub enum Model {
    /// Every unit costs the same.
    PerUnit {
        /// Minor units per unit.
        unit_amount_decimal: Decimal,
    },
    /// Each unit costs what the tier says that it falls into.
    Graduated {
        /// Ascending, the last one open.
        tiers: Vec<Tier>,
    },
    /// All units cost what the tier says that the whole quantity falls into.
    Volume {
        /// Ascending, the last one open.
        tiers: Vec<Tier>,
    },
    /// Units are sold in packages; a begun package is a whole one.
    Package {
        /// Units in a package.
        package_size: Decimal,
        /// Minor units per package.
        package_amount: i64,
    },
    /// What an API of the user's own says for each cycle. Usage counts nothing; the amount itself is the quantity.
    LookedUp {
        /// Which API, by its name in the settings.
        lookup: String,
    },
    /// The same in every cycle, however much was used.
    Flat {
        /// Minor units per cycle.
        flat_amount: i64,
    },
}

/// A step of a graduated or volume price, from the end of the tier before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tier {
    /// The last quantity inside the tier; none where it is open (JSON null or `"inf"`).
    #[serde(default, deserialize_with = "up_to")]
    pub up_to: Option<Decimal>,
    /// Minor units per unit.
    pub unit_amount_decimal: Decimal,
    /// Minor units once, as soon as the tier is entered.
    #[serde(default)]
    pub flat_amount: i64,
}

/// Everything that an amount depends on, besides the quantity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriceTerms {
    /// What all amounts are in.
    pub currency: Currency,
    /// How a quantity becomes an amount.
    #[serde(flatten)]
    pub model: Model,
    /// Units per cycle that cost nothing.
    #[serde(default)]
    pub included_quantity: Decimal,
    /// Minor units that a cycle costs at least.
    #[serde(default)]
    pub minimum_amount: i64,
}

/// What is wrong with a price, and where.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{pointer}: {detail}")]
pub struct PriceError {
    /// JSON pointer into the price.
    pub pointer: String,
    /// For programs: `tiers_empty`, `tiers_not_ascending`, `last_tier_not_open`, `negative`, `currency_precision`,
    /// `package_size_not_positive`, `flat_with_included_quantity`.
    pub code: &'static str,
    /// For people.
    pub detail: String,
}

/// The amount is beyond what can be computed exactly or billed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the amount is out of range")]
pub struct AmountOverflow;

/// One row of the explanation of an amount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PricePart {
    /// Which part of the quantity this is: `1,000 to 5,000`.
    pub label: String,
    /// How much of the quantity is in this part, as a plain decimal.
    pub quantity: String,
    /// Minor units per unit; none where the part is not priced by the unit.
    pub unit_amount_decimal: Option<Decimal>,
    /// Minor units on top.
    pub flat_amount: i64,
}

impl PriceTerms {
    /// Holds everything that [`PriceTerms::amount`] relies on; to be asked before a price is stored.
    pub fn validate(&self) -> Result<(), PriceError> {
        self.not_negative("/included_quantity", self.included_quantity)?;
        self.whole_amount("/minimum_amount", self.minimum_amount)?;
        match &self.model {
            Model::PerUnit { unit_amount_decimal } => {
                self.not_negative("/unit_amount_decimal", *unit_amount_decimal)
            }
            Model::Graduated { tiers } | Model::Volume { tiers } => self.validate_tiers(tiers),
            Model::Package { package_size, package_amount } => {
                if *package_size <= Decimal::ZERO {
                    let detail = "a package holds more than nothing";
                    return fail("/package_size", "package_size_not_positive", detail);
                }
                self.whole_amount("/package_amount", *package_amount)
            }
            Model::LookedUp { lookup } => self.validate_lookup(lookup),
            Model::Flat { flat_amount } => {
                if !self.included_quantity.is_zero() {
                    let detail = "a flat price does not depend on the quantity, so nothing can be included";
                    return fail("/included_quantity", "flat_with_included_quantity", detail);
                }
                self.whole_amount("/flat_amount", *flat_amount)
            }
        }
    }

    /// What the quantity of one cycle costs, in minor units: computed exactly and rounded once, half away from zero, to what the
    /// currency can be billed in.
    ///
    /// A tiered price of quantity nought is nought: no tier is entered, so no tier's flat amount is due.
    pub fn amount(&self, q: Quantity) -> Result<i64, AmountOverflow> {
        let before_minimum = self.before_minimum(q).ok_or(AmountOverflow)?;
        match self.model {
            Model::LookedUp { .. } => Ok(before_minimum),
            _ => Ok(before_minimum.max(self.minimum_amount)),
        }
    }

    /// Which part of a quantity costs what; the parts add up to the amount before it is rounded.
    ///
    /// Empty where the amount does not fit: there is nothing true to show then.
    pub fn breakdown(&self, q: Quantity) -> Vec<PricePart> {
        self.parts(q).unwrap_or_default()
    }

    /// The price in one line, for people: `$0.002 per unit after 1,000 included`.
    pub fn describe(&self) -> String {
        let mut line = match &self.model {
            Model::PerUnit { unit_amount_decimal } => {
                format!("{} per unit", self.currency.show(*unit_amount_decimal))
            }
            Model::Graduated { tiers } => self.describe_tiers("each unit by its tier", tiers),
            Model::Volume { tiers } => self.describe_tiers("all units by their total", tiers),
            Model::Package { package_size, package_amount } => {
                format!("{} per {}", self.shown(*package_amount), package_size.grouped(0))
            }
            Model::LookedUp { lookup } => format!("as {lookup} says, per cycle"),
            Model::Flat { flat_amount } => format!("{} per cycle", self.shown(*flat_amount)),
        };
        if !self.included_quantity.is_zero() {
            line += &format!(" after {} included", self.included_quantity.grouped(0));
        }
        if self.minimum_amount > 0 {
            line += &format!(", at least {} per cycle", self.shown(self.minimum_amount));
        }
        line
    }

    fn before_minimum(&self, q: Quantity) -> Option<i64> {
        let exact = self.exact(self.chargeable(q)?)?;
        let rounded = exact.round_to(i128::from(self.currency.step()))?;
        i64::try_from(rounded).ok()
    }

    /// What is left of the quantity when the allowance is used up.
    fn chargeable(&self, q: Quantity) -> Option<Decimal> {
        let left = q.to_decimal()?.checked_sub(self.included_quantity)?;
        // Usage is never less than nothing; an amount may be, where it is a credit.
        let may_be_credit = matches!(self.model, Model::LookedUp { .. });
        Some(if may_be_credit { left } else { left.max(Decimal::ZERO) })
    }

    fn exact(&self, chargeable: Decimal) -> Option<Decimal> {
        match &self.model {
            Model::PerUnit { unit_amount_decimal } => chargeable.checked_mul(*unit_amount_decimal),
            Model::Graduated { tiers } => sum(graduated(tiers, chargeable)?),
            Model::Volume { tiers } => sum(volume(tiers, chargeable)),
            Model::Package { package_size, package_amount } => {
                let packages = Decimal::new(chargeable.ceil_div(*package_size)?, 0)?;
                packages.checked_mul(Decimal::from(*package_amount))
            }
            Model::LookedUp { .. } => Some(chargeable),
            Model::Flat { flat_amount } => Some(Decimal::from(*flat_amount)),
        }
    }

    fn validate_lookup(&self, lookup: &str) -> Result<(), PriceError> {
        let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        if lookup.is_empty() || lookup.len() > 64 || !lookup.chars().all(named) {
            return fail("/lookup", "invalid_name", "has 1 to 64 of the characters A-Z a-z 0-9 _ -");
        }
        if !self.included_quantity.is_zero() || self.minimum_amount != 0 {
            let detail = "what is looked up is billed as it is: nothing is included, and there is no minimum";
            return fail("/included_quantity", "looked_up_with_more", detail);
        }
        Ok(())
    }

    fn parts(&self, q: Quantity) -> Option<Vec<PricePart>> {
        let chargeable = self.chargeable(q)?;
        let included = q.to_decimal()?.checked_sub(chargeable)?;
        let mut parts = Vec::new();
        if !self.included_quantity.is_zero() {
            parts.push(part("included", included, None, 0));
        }
        match &self.model {
            Model::PerUnit { unit_amount_decimal } => {
                parts.push(part("per unit", chargeable, Some(*unit_amount_decimal), 0))
            }
            Model::Graduated { tiers } => {
                parts.extend(graduated(tiers, chargeable)?.iter().map(Share::part));
            }
            Model::Volume { tiers } => {
                parts.extend(volume(tiers, chargeable).iter().map(Share::part));
            }
            Model::Package { package_size, .. } => {
                let whole = i64::try_from(self.exact(chargeable)?.round_to(1)?).ok()?;
                let label = format!("packages of {}", package_size.grouped(0));
                parts.push(part(label, chargeable, None, whole));
            }
            Model::LookedUp { .. } => {
                let whole = i64::try_from(chargeable.round_to(1)?).ok()?;
                parts.push(part("looked up", Decimal::ZERO, None, whole));
            }
            Model::Flat { flat_amount } => {
                parts.push(part("per cycle", Decimal::ZERO, None, *flat_amount));
            }
        }
        let missing = self.minimum_amount.checked_sub(self.before_minimum(q)?)?;
        if missing > 0 {
            parts.push(part("up to the minimum", Decimal::ZERO, None, missing));
        }
        Some(parts)
    }

    fn describe_tiers(&self, rule: &str, tiers: &[Tier]) -> String {
        let tier = |tier: &Tier| {
            let unit = self.currency.show(tier.unit_amount_decimal);
            let flat = match tier.flat_amount {
                0 => String::new(),
                flat => format!(" plus {}", self.shown(flat)),
            };
            let reach = match tier.up_to {
                Some(up_to) => format!(" up to {}", up_to.grouped(0)),
                None if tiers.len() > 1 => " above".to_owned(),
                None => String::new(),
            };
            format!("{unit} per unit{flat}{reach}")
        };
        let tiers: Vec<String> = tiers.iter().map(tier).collect();
        format!("{} ({rule})", tiers.join(", "))
    }

    fn shown(&self, minor_units: i64) -> String {
        self.currency.show(Decimal::from(minor_units))
    }

    fn validate_tiers(&self, tiers: &[Tier]) -> Result<(), PriceError> {
        let Some(last) = tiers.len().checked_sub(1) else {
            return fail("/tiers", "tiers_empty", "a tiered price has at least one tier");
        };
        let mut end = Decimal::ZERO;
        for (at, tier) in tiers.iter().enumerate() {
            let pointer = |field: &str| format!("/tiers/{at}/{field}");
            self.not_negative(&pointer("unit_amount_decimal"), tier.unit_amount_decimal)?;
            self.whole_amount(&pointer("flat_amount"), tier.flat_amount)?;
            match tier.up_to {
                Some(_) if at == last => {
                    let detail = "the last tier is open: its up_to is \"inf\"";
                    return fail(pointer("up_to"), "last_tier_not_open", detail);
                }
                Some(up_to) if up_to > end => end = up_to,
                None if at == last => {}
                _ => {
                    let detail = "each tier ends above the one before it, and only the last is open";
                    return fail(pointer("up_to"), "tiers_not_ascending", detail);
                }
            }
        }
        Ok(())
    }

    fn not_negative(&self, pointer: &str, number: Decimal) -> Result<(), PriceError> {
        if number.is_negative() {
            return fail(pointer, "negative", "this is nought or more");
        }
        Ok(())
    }

    fn whole_amount(&self, pointer: &str, minor_units: i64) -> Result<(), PriceError> {
        self.not_negative(pointer, Decimal::from(minor_units))?;
        if minor_units % self.currency.step() != 0 {
            let least = Money::new(self.currency.step(), self.currency);
            let detail = format!("amounts are multiples of {} ({least})", least.minor_units);
            return fail(pointer, "currency_precision", detail);
        }
        Ok(())
    }
}

/// How much of a quantity a tier holds.
struct Share<'a> {
    tier: &'a Tier,
    above: Decimal,
    quantity: Decimal,
}

impl Share<'_> {
    fn exact(&self) -> Option<Decimal> {
        self.quantity
            .checked_mul(self.tier.unit_amount_decimal)?
            .checked_add(Decimal::from(self.tier.flat_amount))
    }

    fn part(&self) -> PricePart {
        let above = self.above.grouped(0);
        let label = match self.tier.up_to {
            Some(up_to) => format!("{above} to {}", up_to.grouped(0)),
            None => format!("above {above}"),
        };
        let unit_amount_decimal = Some(self.tier.unit_amount_decimal);
        part(label, self.quantity, unit_amount_decimal, self.tier.flat_amount)
    }
}

/// The tiers that a quantity enters, each with the units between its borders.
fn graduated(tiers: &[Tier], quantity: Decimal) -> Option<Vec<Share<'_>>> {
    let mut shares = Vec::new();
    let mut above = Decimal::ZERO;
    for tier in tiers {
        if above >= quantity {
            break;
        }
        let end = tier.up_to.map_or(quantity, |up_to| up_to.min(quantity));
        shares.push(Share { tier, above, quantity: end.checked_sub(above)? });
        above = end;
    }
    Some(shares)
}

/// The one tier that holds a whole quantity; none for nought.
fn volume(tiers: &[Tier], quantity: Decimal) -> Vec<Share<'_>> {
    if quantity.is_zero() {
        return Vec::new();
    }
    let holds = |tier: &&Tier| tier.up_to.is_none_or(|up_to| quantity <= up_to);
    let below = tiers.iter().take_while(|tier| !holds(tier)).last();
    let above = below.and_then(|tier| tier.up_to).unwrap_or(Decimal::ZERO);
    let share = |tier| Share { tier, above, quantity };
    tiers.iter().find(holds).map(share).into_iter().collect()
}

fn sum(shares: Vec<Share<'_>>) -> Option<Decimal> {
    shares.iter().try_fold(Decimal::ZERO, |total, share| total.checked_add(share.exact()?))
}

fn part(
    label: impl Into<String>,
    quantity: Decimal,
    unit_amount_decimal: Option<Decimal>,
    flat_amount: i64,
) -> PricePart {
    PricePart { label: label.into(), quantity: quantity.to_string(), unit_amount_decimal, flat_amount }
}

fn fail<T>(
    pointer: impl Into<String>,
    code: &'static str,
    detail: impl Into<String>,
) -> Result<T, PriceError> {
    Err(PriceError { pointer: pointer.into(), code, detail: detail.into() })
}

fn up_to<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Decimal>, D::Error> {
    deserializer.deserialize_any(UpTo)
}

struct UpTo;

impl de::Visitor<'_> for UpTo {
    type Value = Option<Decimal>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number, a decimal as a string, \"inf\" or null")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        match text {
            "inf" => Ok(None),
            text => Decimal::parse(text).map(Some).map_err(E::custom),
        }
    }

    fn visit_i64<E: de::Error>(self, whole: i64) -> Result<Self::Value, E> {
        self.visit_str(&whole.to_string())
    }

    fn visit_u64<E: de::Error>(self, whole: u64) -> Result<Self::Value, E> {
        self.visit_str(&whole.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn terms(json: &str) -> PriceTerms {
        serde_json::from_str(json).unwrap()
    }

    fn decimal(text: &str) -> Decimal {
        Decimal::parse(text).unwrap()
    }

    fn units(units: i128) -> Quantity {
        Quantity { units, decimals: 0 }
    }

    fn refusal(json: &str) -> (String, &'static str) {
        let error = terms(json).validate().unwrap_err();
        (error.pointer, error.code)
    }

    const GRADUATED: &str = r#"{"currency":"usd","model":"graduated","tiers":[
        {"up_to":100,"unit_amount_decimal":"10"},
        {"up_to":"200","unit_amount_decimal":"5","flat_amount":300},
        {"up_to":"inf","unit_amount_decimal":"1"}]}"#;

    const VOLUME: &str = r#"{"currency":"usd","model":"volume","tiers":[
        {"up_to":100,"unit_amount_decimal":"10","flat_amount":7},
        {"up_to":null,"unit_amount_decimal":"5"}]}"#;

    #[test]
    fn half_a_cent_rounds_away_from_zero() {
        let price = terms(r#"{"currency":"usd","model":"per_unit","unit_amount_decimal":"0.5"}"#);
        let amounts = [0, 1, 2, 3].map(|n| price.amount(units(n)).unwrap());
        assert_eq!(amounts, [0, 1, 1, 2]);
    }

    #[test]
    fn rounding_happens_once_for_the_whole_quantity() {
        let price = terms(r#"{"currency":"usd","model":"per_unit","unit_amount_decimal":"0.000000000001"}"#);
        assert_eq!(price.amount(units(499_999_999_999)), Ok(0));
        assert_eq!(price.amount(units(500_000_000_000)), Ok(1));
    }

    #[test]
    fn graduated_units_cost_what_their_own_tier_says() {
        let price = terms(GRADUATED);
        assert_eq!(price.amount(units(0)), Ok(0));
        assert_eq!(price.amount(units(100)), Ok(1000));
        assert_eq!(price.amount(units(101)), Ok(1000 + 300 + 5));
        assert_eq!(price.amount(units(250)), Ok(1000 + 300 + 500 + 50));
    }

    #[test]
    fn volume_prices_the_whole_quantity_at_one_tier() {
        let price = terms(VOLUME);
        assert_eq!(price.amount(units(0)), Ok(0));
        assert_eq!(price.amount(units(100)), Ok(1007));
        assert_eq!(price.amount(units(101)), Ok(505));
    }

    #[test]
    fn a_begun_package_is_a_whole_one() {
        let price =
            terms(r#"{"currency":"usd","model":"package","package_size":"1000","package_amount":500}"#);
        let amounts = [0, 1, 1000, 1001].map(|n| price.amount(units(n)).unwrap());
        assert_eq!(amounts, [0, 500, 500, 1000]);
        let sliver = Quantity { units: 1_000_000_000_001, decimals: 9 };
        assert_eq!(price.amount(sliver), Ok(1000));
    }

    #[test]
    fn a_flat_fee_does_not_ask_how_much_was_used() {
        let price = terms(r#"{"currency":"jpy","model":"flat","flat_amount":900}"#);
        assert_eq!(price.amount(units(0)), Ok(900));
        assert_eq!(price.amount(units(9_999)), Ok(900));
    }

    #[test]
    fn what_is_included_costs_nothing_and_the_minimum_is_due_anyway() {
        let price = terms(
            r#"{"currency":"usd","model":"per_unit","unit_amount_decimal":"10",
                "included_quantity":"100","minimum_amount":50}"#,
        );
        let amounts = [0, 100, 105, 106].map(|n| price.amount(units(n)).unwrap());
        assert_eq!(amounts, [50, 50, 50, 60]);
    }

    #[test]
    fn kronur_are_billed_whole_though_sent_with_two_decimals() {
        let price = terms(r#"{"currency":"isk","model":"per_unit","unit_amount_decimal":"50"}"#);
        assert_eq!(price.amount(units(1)), Ok(100));
        assert_eq!(price.amount(units(2)), Ok(100));
        assert_eq!(price.amount(units(3)), Ok(200));
    }

    #[test]
    fn an_amount_beyond_64_bits_is_an_error() {
        let price = terms(r#"{"currency":"usd","model":"per_unit","unit_amount_decimal":"2"}"#);
        assert_eq!(price.amount(units(i128::from(i64::MAX))), Err(AmountOverflow));
        assert_eq!(price.amount(units(i128::MAX)), Err(AmountOverflow));
        assert_eq!(price.breakdown(units(i128::MAX)), []);
        let package = terms(
            r#"{"currency":"usd","model":"package","package_size":"0.000000000001","package_amount":9223372036854775807}"#,
        );
        assert_eq!(package.amount(units(i128::MAX)), Err(AmountOverflow));
    }

    #[test]
    fn a_wrong_price_says_where_it_is_wrong() {
        let usd = |rest: &str| refusal(&format!(r#"{{"currency":"usd",{rest}}}"#));
        let tier = |rest: &str| usd(&format!(r#""model":"volume","tiers":[{rest}]"#));
        let at = |pointer: &str, code| (pointer.to_owned(), code);
        assert_eq!(tier(""), at("/tiers", "tiers_empty"));
        assert_eq!(
            tier(r#"{"up_to":5,"unit_amount_decimal":"1"}"#),
            at("/tiers/0/up_to", "last_tier_not_open")
        );
        let open = r#"{"up_to":null,"unit_amount_decimal":"1"}"#;
        let five = r#"{"up_to":5,"unit_amount_decimal":"1"}"#;
        let not_ascending = at("/tiers/1/up_to", "tiers_not_ascending");
        assert_eq!(tier(&format!("{five},{five},{open}")), not_ascending);
        assert_eq!(tier(&format!("{five},{open},{open}")), not_ascending);
        assert_eq!(
            tier(r#"{"up_to":null,"unit_amount_decimal":"-1"}"#),
            at("/tiers/0/unit_amount_decimal", "negative")
        );
        assert_eq!(
            usd(r#""model":"package","package_size":"0","package_amount":1"#),
            at("/package_size", "package_size_not_positive")
        );
        assert_eq!(
            usd(r#""model":"flat","flat_amount":1,"included_quantity":"1""#),
            at("/included_quantity", "flat_with_included_quantity")
        );
        assert_eq!(
            usd(r#""model":"flat","flat_amount":1,"minimum_amount":-1"#),
            at("/minimum_amount", "negative")
        );
        assert_eq!(
            refusal(r#"{"currency":"isk","model":"flat","flat_amount":150}"#),
            at("/flat_amount", "currency_precision")
        );
        assert_eq!(terms(GRADUATED).validate(), Ok(()));
        assert_eq!(terms(VOLUME).validate(), Ok(()));
    }

    #[test]
    fn a_price_with_fields_of_another_one_is_refused() {
        for json in [
            r#"{"currency":"usd","model":"flat","flat_amount":1,"admin":true}"#,
            r#"{"currency":"usd","model":"flat","flat_amount":1,"unit_amount_decimal":"1"}"#,
            r#"{"currency":"usd","model":"flat","flat_amount":1.5}"#,
            r#"{"currency":"usd","model":"flat","flat_amount":"1"}"#,
            r#"{"currency":"usd","model":"per_unit","unit_amount_decimal":1}"#,
            r#"{"currency":"usd","model":"per_unit","unit_amount_decimal":"1","unit_amount_decimal":"2"}"#,
            r#"{"currency":"usd","currency":"usd","model":"flat","flat_amount":1}"#,
            r#"{"currency":"Usd","model":"flat","flat_amount":1}"#,
            r#"{"currency":"usd","model":"surge","flat_amount":1}"#,
            r#"{"model":"flat","flat_amount":1}"#,
            r#"{"currency":"usd","model":"volume","tiers":[{"up_to":1.5,"unit_amount_decimal":"1"}]}"#,
            r#"{"currency":"usd","model":"volume","tiers":[{"unit_amount_decimal":"1","color":1}]}"#,
        ] {
            assert!(serde_json::from_str::<PriceTerms>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn a_stored_price_reads_back_as_itself() {
        for json in [GRADUATED, VOLUME] {
            let price = terms(json);
            assert_eq!(terms(&serde_json::to_string(&price).unwrap()), price);
        }
    }

    #[test]
    fn a_price_reads_as_one_line() {
        let line = |json| terms(json).describe();
        assert_eq!(
            line(
                r#"{"currency":"usd","model":"per_unit","unit_amount_decimal":"0.2",
                    "included_quantity":"1000","minimum_amount":1000}"#
            ),
            "$0.002 per unit after 1,000 included, at least $10.00 per cycle"
        );
        assert_eq!(
            line(VOLUME),
            "$0.10 per unit plus $0.07 up to 100, $0.05 per unit above (all units by their total)"
        );
        assert_eq!(line(r#"{"currency":"jpy","model":"flat","flat_amount":9000}"#), "¥9,000 per cycle");
    }

    #[test]
    fn a_breakdown_names_the_tiers_that_hold_something() {
        let parts = terms(GRADUATED).breakdown(units(150));
        let rows: Vec<_> = parts.iter().map(|p| (p.label.as_str(), p.quantity.as_str())).collect();
        assert_eq!(rows, [("0 to 100", "100"), ("100 to 200", "50")]);
        assert_eq!(parts[1].flat_amount, 300);
    }

    /// A fraction kept the slow way, as an oracle: whole numbers only, and its own idea of rounding.
    #[derive(Clone, Copy)]
    struct Fraction(i128, i128);

    impl Fraction {
        fn of(decimal: Decimal) -> Fraction {
            let text = decimal.to_string();
            let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
            let digits: i128 = format!("{whole}{fraction}").parse().unwrap();
            Fraction(digits, 10i128.pow(fraction.len() as u32))
        }

        fn plus(self, other: Fraction) -> Fraction {
            Fraction(self.0 * other.1 + other.0 * self.1, self.1 * other.1).reduced()
        }

        fn times(self, other: Fraction) -> Fraction {
            Fraction(self.0 * other.0, self.1 * other.1).reduced()
        }

        fn less(self, other: Fraction) -> Fraction {
            self.plus(Fraction(-other.0, other.1))
        }

        fn reduced(self) -> Fraction {
            let (mut a, mut b) = (self.0.abs(), self.1);
            while b != 0 {
                (a, b) = (b, a % b);
            }
            Fraction(self.0 / a.max(1), self.1 / a.max(1))
        }

        fn above_zero(self) -> Fraction {
            if self.0 < 0 { Fraction(0, 1) } else { self }
        }

        fn least(self, other: Fraction) -> Fraction {
            if self.less(other).0 < 0 { self } else { other }
        }

        fn rounded(self) -> i128 {
            (2 * self.0 + self.1).div_euclid(2 * self.1)
        }
    }

    fn oracle(price: &PriceTerms, q: Quantity) -> i128 {
        let whole = |n: i64| Fraction(i128::from(n), 1);
        let all = Fraction(q.units, 10i128.pow(u32::from(q.decimals)));
        let q = all.less(Fraction::of(price.included_quantity)).above_zero();
        let exact = match &price.model {
            Model::PerUnit { unit_amount_decimal } => q.times(Fraction::of(*unit_amount_decimal)),
            Model::Graduated { tiers } => {
                let mut from = whole(0);
                let mut sum = whole(0);
                for tier in tiers {
                    let to = tier.up_to.map_or(q, Fraction::of).least(q);
                    let inside = to.less(from).above_zero();
                    if inside.0 > 0 {
                        let cost = inside.times(Fraction::of(tier.unit_amount_decimal));
                        sum = sum.plus(cost).plus(whole(tier.flat_amount));
                        from = to;
                    }
                }
                sum
            }
            Model::Volume { tiers } => {
                let holds = |t: &&Tier| t.up_to.is_none_or(|u| q.less(Fraction::of(u)).0 <= 0);
                let tier = tiers.iter().find(holds).unwrap();
                let cost = q.times(Fraction::of(tier.unit_amount_decimal));
                let cost = cost.plus(whole(tier.flat_amount));
                if q.0 == 0 { whole(0) } else { cost }
            }
            Model::Package { package_size, package_amount } => {
                let size = Fraction::of(*package_size);
                let packages = q.times(Fraction(size.1, size.0));
                let begun = -(-packages.0).div_euclid(packages.1);
                Fraction(begun, 1).times(whole(*package_amount))
            }
            Model::LookedUp { .. } => q,
            Model::Flat { flat_amount } => whole(*flat_amount),
        };
        exact.rounded().max(i128::from(price.minimum_amount))
    }

    fn small_decimal(most: i128, scale: u32) -> impl Strategy<Value = Decimal> {
        (0..=most, 0..=scale).prop_map(|(m, s)| Decimal::new(m, s).unwrap())
    }

    fn tiers(flat: i64) -> impl Strategy<Value = Vec<Tier>> {
        let tier = (1i128..2_000, small_decimal(100_000, 4), 0..=flat);
        proptest::collection::vec(tier, 1..5).prop_map(|steps| {
            let last = steps.len() - 1;
            let mut end = 0;
            let tier = |(at, (step, unit_amount_decimal, flat_amount))| {
                end += step;
                Tier {
                    up_to: (at < last).then(|| Decimal::new(end, 1).unwrap()),
                    unit_amount_decimal,
                    flat_amount,
                }
            };
            steps.into_iter().enumerate().map(tier).collect()
        })
    }

    fn model() -> impl Strategy<Value = Model> {
        prop_oneof![
            small_decimal(1_000_000, 6)
                .prop_map(|unit_amount_decimal| Model::PerUnit { unit_amount_decimal }),
            tiers(500).prop_map(|tiers| Model::Graduated { tiers }),
            tiers(500).prop_map(|tiers| Model::Volume { tiers }),
            (1i128..5_000, 0u32..3, 0i64..10_000).prop_map(|(m, s, package_amount)| {
                Model::Package { package_size: Decimal::new(m, s).unwrap(), package_amount }
            }),
            (0i64..100_000).prop_map(|flat_amount| Model::Flat { flat_amount }),
        ]
    }

    fn any_terms() -> impl Strategy<Value = PriceTerms> {
        (model(), small_decimal(2_000, 2), 0i64..2_000).prop_map(|(model, included, minimum)| {
            let flat = matches!(model, Model::Flat { .. });
            PriceTerms {
                currency: Currency::parse("usd").unwrap(),
                model,
                included_quantity: if flat { Decimal::ZERO } else { included },
                minimum_amount: minimum,
            }
        })
    }

    fn quantity() -> impl Strategy<Value = Quantity> {
        (0i128..1_000_000, 0u8..=3).prop_map(|(units, decimals)| Quantity { units, decimals })
    }

    fn usd(model: Model) -> PriceTerms {
        PriceTerms {
            currency: Currency::parse("usd").unwrap(),
            model,
            included_quantity: Decimal::ZERO,
            minimum_amount: 0,
        }
    }

    proptest! {
        #[test]
        fn an_amount_is_exact(price in any_terms(), q in quantity()) {
            prop_assert_eq!(price.validate(), Ok(()));
            prop_assert_eq!(i128::from(price.amount(q).unwrap()), oracle(&price, q));
        }

        #[test]
        fn a_breakdown_adds_up_to_the_amount(price in any_terms(), q in quantity()) {
            let mut total = Decimal::ZERO;
            let mut held = Decimal::ZERO;
            for part in price.breakdown(q) {
                let quantity = decimal(&part.quantity);
                let unit = part.unit_amount_decimal.unwrap_or(Decimal::ZERO);
                let cost = quantity.checked_mul(unit).unwrap();
                let flat = Decimal::from(part.flat_amount);
                total = total.checked_add(cost).unwrap().checked_add(flat).unwrap();
                held = held.checked_add(quantity).unwrap();
            }
            prop_assert_eq!(total.round_to(1).unwrap(), i128::from(price.amount(q).unwrap()));
            if !matches!(price.model, Model::Flat { .. }) {
                prop_assert_eq!(held, q.to_decimal().unwrap());
            }
        }

        #[test]
        fn more_usage_never_costs_less_when_graduated(tiers in tiers(500), a in quantity(), b in quantity()) {
            let price = usd(Model::Graduated { tiers });
            let (less, more) = if a.to_decimal() <= b.to_decimal() { (a, b) } else { (b, a) };
            prop_assert!(price.amount(less).unwrap() <= price.amount(more).unwrap());
        }

        #[test]
        fn a_graduated_amount_does_not_jump_at_a_border(tiers in tiers(0)) {
            let price = usd(Model::Graduated { tiers: tiers.clone() });
            for pair in tiers.windows(2) {
                let border = pair[0].up_to.unwrap();
                let sliver = Decimal::new(1, 9).unwrap();
                let at = price.exact(border).unwrap();
                let past = price.exact(border.checked_add(sliver).unwrap()).unwrap();
                let step = sliver.checked_mul(pair[1].unit_amount_decimal).unwrap();
                prop_assert_eq!(past.checked_sub(at).unwrap(), step);
            }
        }

        #[test]
        fn more_usage_in_one_volume_tier_never_costs_less(tiers in tiers(500), a in quantity(), b in quantity()) {
            let tier_of = |q: Quantity| volume(&tiers, q.to_decimal().unwrap()).first().map(|s| s.above);
            prop_assume!(tier_of(a) == tier_of(b));
            let price = usd(Model::Volume { tiers: tiers.clone() });
            let (less, more) = if a.to_decimal() <= b.to_decimal() { (a, b) } else { (b, a) };
            prop_assert!(price.amount(less).unwrap() <= price.amount(more).unwrap());
        }
    }
}

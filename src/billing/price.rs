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
        Ok(before_minimum.max(self.minimum_amount))
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
        Some(left.max(Decimal::ZERO))
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
            Model::Flat { flat_amount } => Some(Decimal::from(*flat_amount)),
        }
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

//! Products with their prices, and carriers with the places that they go to.

use crate::{api::Line, web::Failure};

/// How many products there are; their numbers begin at 1.
pub const PRODUCTS: i32 = 20;
/// The product that nobody has.
pub const SOLD_OUT: i32 = 20;
/// The payment that the bank refuses.
pub const DECLINED: &str = "declined-card";
/// The place that no carrier goes to.
pub const UNREACHABLE: &str = "999999";

const NAMES: [&str; 10] =
    ["Kettle", "Lamp", "Notebook", "Backpack", "Headphones", "Chair", "Mug", "Blanket", "Clock", "Umbrella"];

/// Carriers: name, code and the first digits of the pincodes that they serve.
pub const CARRIERS: [Carrier; 3] = [
    Carrier { name: "Western Express", code: "WEX", serves: "4" },
    Carrier { name: "Southern Parcel", code: "SPL", serves: "56" },
    Carrier { name: "Northern Post", code: "NPO", serves: "1278" },
];

/// A company that delivers.
#[derive(Debug, Clone, Copy)]
pub struct Carrier {
    pub name: &'static str,
    pub code: &'static str,
    serves: &'static str,
}

impl Carrier {
    /// Whether it goes there.
    #[must_use]
    pub fn serves(&self, pincode: &str) -> bool {
        pincode.chars().next().is_some_and(|first| self.serves.contains(first))
    }
}

/// The carrier for a place.
#[must_use]
pub fn carrier_for(pincode: &str) -> Option<&'static Carrier> {
    CARRIERS.iter().find(|carrier| carrier.serves(pincode))
}

/// The name of a product.
#[must_use]
pub fn name(product: i32) -> String {
    let name = NAMES[usize::try_from(product).unwrap_or_default() % NAMES.len()];
    if product > 10 { format!("{name}, large") } else { name.to_owned() }
}

/// The stock keeping unit. Its last three digits are the number.
#[must_use]
pub fn sku(product: i32) -> String {
    format!("SKU-{product:03}")
}

/// The price in hundredths.
#[must_use]
pub fn price(product: i32) -> i64 {
    i64::from(product) * 12_345 % 90_000 + 1_999
}

/// What an order costs, in hundredths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    pub lines: Vec<Priced>,
    pub subtotal: i64,
    pub tax: i64,
    pub shipping_cost: i64,
    pub discount: i64,
    pub total: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Priced {
    pub product: i32,
    pub quantity: i32,
    pub unit_price: i64,
    pub total_price: i64,
}

/// 18 % tax, 40.00 for the parcel below 500.00, and 5 % off above 2000.00.
pub fn quote(lines: &[Line]) -> Result<Quote, Failure> {
    if lines.is_empty() {
        return Err(Failure::Invalid("an order has at least one item".to_owned()));
    }
    let mut priced: Vec<Priced> = Vec::new();
    for line in lines {
        if !(1..=PRODUCTS).contains(&line.product) || !(1..=100).contains(&line.quantity) {
            return Err(Failure::Invalid(format!("product {} × {}", line.product, line.quantity)));
        }
        if priced.iter().any(|other| other.product == line.product) {
            return Err(Failure::Invalid(format!("product {} twice", line.product)));
        }
        let unit_price = price(line.product);
        let total_price = unit_price * i64::from(line.quantity);
        priced.push(Priced { product: line.product, quantity: line.quantity, unit_price, total_price });
    }
    let subtotal: i64 = priced.iter().map(|line| line.total_price).sum();
    let tax = subtotal * 18 / 100;
    let shipping_cost = if subtotal < 50_000 { 4_000 } else { 0 };
    let discount = if subtotal > 200_000 { subtotal * 5 / 100 } else { 0 };
    Ok(Quote {
        lines: priced,
        subtotal,
        tax,
        shipping_cost,
        discount,
        total: subtotal + tax + shipping_cost - discount,
    })
}

/// Hundredths as Postgres and people write them.
#[must_use]
pub fn money(hundredths: i64) -> String {
    format!("{}{}.{:02}", if hundredths < 0 { "-" } else { "" }, hundredths.abs() / 100, hundredths.abs() % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_adds_up() {
        let quote = quote(&[Line { product: 1, quantity: 2 }, Line { product: 7, quantity: 1 }]).unwrap();
        assert_eq!(quote.subtotal, 2 * price(1) + price(7));
        assert_eq!(quote.total, quote.subtotal + quote.tax + quote.shipping_cost - quote.discount);
        assert_eq!(money(150_000), "1500.00");
        assert_eq!(money(-5), "-0.05");
    }

    #[test]
    fn what_is_no_order_is_refused() {
        for lines in [vec![], vec![Line { product: 0, quantity: 1 }], vec![Line { product: 1, quantity: 0 }]] {
            assert!(quote(&lines).is_err(), "{lines:?}");
        }
        assert!(quote(&[Line { product: 1, quantity: 1 }, Line { product: 1, quantity: 1 }]).is_err());
    }

    #[test]
    fn every_city_has_a_carrier_but_one() {
        assert_eq!(carrier_for("400001").unwrap().code, "WEX");
        assert!(carrier_for(UNREACHABLE).is_none());
    }
}

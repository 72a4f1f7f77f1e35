//! What customers do, and what an order of each kind has to come to.

use anyhow::{Context, Result, ensure};
use axum::http::Method;
use serde_json::{Value, json};
use tokio::sync::watch;
use uuid::Uuid;

use super::{
    client::{Shopper, id},
    ledger::{Fate, Placed},
};
use crate::{
    api::{Address, Attempt, Line, NewOrder, NewUser, Profile, Reason},
    catalogue::{self, DECLINED, SOLD_OUT, UNREACHABLE, money},
    ids,
    seed::CITIES,
};

/// A customer's pause after an order.
const THINKS: std::time::Duration = std::time::Duration::from_millis(200);

/// Kinds of orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Delivered,
    DeliveredAtSecondAttempt,
    GivenBack,
    SoldOut,
    Declined,
    Unreachable,
    Cancelled,
}

impl Kind {
    /// Their names in a URL, and what they are.
    pub const NAMES: [(&'static str, &'static str); 7] = [
        ("delivered", "order"),
        ("second", "order, delivered at the second attempt"),
        ("back", "order, given back at the door"),
        ("sold-out", "order what is sold out"),
        ("declined", "order with a card that is declined"),
        ("unreachable", "order to where no carrier goes"),
        ("cancelled", "order, and cancel"),
    ];

    /// The kind of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "delivered" => Self::Delivered,
            "second" => Self::DeliveredAtSecondAttempt,
            "back" => Self::GivenBack,
            "sold-out" => Self::SoldOut,
            "declined" => Self::Declined,
            "unreachable" => Self::Unreachable,
            "cancelled" => Self::Cancelled,
            _ => return None,
        })
    }

    fn any() -> Self {
        match fastrand::u32(..20) {
            0 | 1 => Self::SoldOut,
            2 | 3 => Self::Declined,
            4 => Self::Unreachable,
            5 | 6 => Self::Cancelled,
            7 | 8 => Self::GivenBack,
            9..=11 => Self::DeliveredAtSecondAttempt,
            _ => Self::Delivered,
        }
    }

    /// Does what is left to do for such an order, and waits for its end.
    pub async fn follow(self, shopper: &Shopper, order: &str) -> Result<()> {
        match self {
            Self::SoldOut | Self::Declined | Self::Unreachable => ends(shopper, order, Fate::Cancelled).await,
            Self::Cancelled => cancel(shopper, order).await,
            Self::Delivered | Self::DeliveredAtSecondAttempt | Self::GivenBack => ship(shopper, order, self).await,
        }
    }

    fn fate(self) -> Fate {
        match self {
            Self::Delivered | Self::DeliveredAtSecondAttempt => Fate::Completed,
            Self::GivenBack => Fate::Returned,
            Self::SoldOut | Self::Declined | Self::Unreachable => Fate::Cancelled,
            Self::Cancelled => Fate::Undone,
        }
    }
}

/// Lives until it is told to stop. A step that fails ends this life, and a new one begins.
pub(super) async fn live(shopper: Shopper, number: usize, stopped: watch::Receiver<bool>) {
    while !*stopped.borrow() {
        if let Err(error) = one_life(&shopper, number, &stopped).await {
            shopper.ledger.fail(format!("{error:#}"));
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    }
}

/// A customer as the customer knows it.
pub struct Person {
    pub id: String,
    pub email: String,
    pub name: (String, String),
    pub phone: String,
    pub address: Address,
    pub address_id: String,
}

async fn one_life(shopper: &Shopper, number: usize, stopped: &watch::Receiver<bool>) -> Result<()> {
    if fastrand::u32(..10) == 0 {
        return come_and_go(shopper).await;
    }
    let mut person = Person::register(shopper, number).await?;
    for _ in 0..fastrand::u32(1..6) {
        if *stopped.borrow() {
            break;
        }
        if fastrand::u32(..3) == 0 {
            person.change(shopper).await?;
        }
        let kind = Kind::any();
        person.order(shopper, kind).await.with_context(|| format!("an order of kind {kind:?}"))?;
        shopper.ledger.finish();
        tokio::time::sleep(THINKS).await;
    }
    Ok(())
}

/// A user who deletes the account again.
async fn come_and_go(shopper: &Shopper) -> Result<()> {
    let person = Person::register(shopper, 0).await?;
    shopper.must(Method::DELETE, &format!("/users/{}", person.id), &Value::Null).await?;
    shopper.ledger.delete(&person.email);
    Ok(())
}

impl Person {
    /// Registers, logs in, and adds an address.
    pub async fn register(shopper: &Shopper, number: usize) -> Result<Self> {
        let unique = Uuid::new_v4().simple().to_string();
        let email = format!("shopper-{unique}@example.com");
        let name = ("Shopper".to_owned(), format!("No {number}"));
        let phone = format!("+91 9{:09}", fastrand::u32(..1_000_000_000));
        let new = NewUser {
            email: email.clone(),
            password: unique.clone(),
            first_name: name.0.clone(),
            last_name: name.1.clone(),
            phone: phone.clone(),
        };
        let user = id(&shopper.must(Method::POST, "/users", &new).await?);
        let credentials = json!({ "email": email, "password": unique });
        shopper.must(Method::POST, "/login", &credentials).await?;
        let address = any_address();
        let address_id = id(&shopper.must(Method::POST, &format!("/users/{user}/addresses"), &address).await?);
        Ok(Self { id: user, email, name, phone, address, address_id })
    }

    /// Changes the name, the phone and the address: orders from before must not notice.
    pub async fn change(&mut self, shopper: &Shopper) -> Result<()> {
        self.name.1 = format!("No {}", fastrand::u32(1_000..1_000_000));
        self.phone = format!("+91 9{:09}", fastrand::u32(..1_000_000_000));
        let (first_name, last_name) = self.name.clone();
        let profile = Profile { first_name, last_name, phone: self.phone.clone() };
        shopper.must(Method::PUT, &format!("/users/{}", self.id), &profile).await?;
        self.move_to(shopper, any_address()).await
    }

    async fn move_to(&mut self, shopper: &Shopper, address: Address) -> Result<()> {
        self.address = address;
        let path = format!("/users/{}/addresses/{}", self.id, self.address_id);
        shopper.must(Method::PUT, &path, &self.address).await?;
        Ok(())
    }

    /// Places an order and follows it to its end.
    pub async fn order(&mut self, shopper: &Shopper, kind: Kind) -> Result<()> {
        let order = self.place_for(shopper, kind).await?;
        kind.follow(shopper, &order).await
    }

    /// Places an order from where orders of this kind come from. Returns its id.
    pub async fn place_for(&mut self, shopper: &Shopper, kind: Kind) -> Result<String> {
        if kind == Kind::Unreachable {
            let nowhere = Address { pincode: UNREACHABLE.to_owned(), city: "Nowhere".to_owned(), ..any_address() };
            self.move_to(shopper, nowhere).await?;
        } else if self.address.pincode == UNREACHABLE {
            self.move_to(shopper, any_address()).await?;
        }
        self.place(shopper, kind).await
    }

    /// Places an order. Returns its id.
    pub async fn place(&self, shopper: &Shopper, kind: Kind) -> Result<String> {
        let mut items = vec![Line { product: fastrand::i32(1..10), quantity: fastrand::i32(1..4) }];
        if kind == Kind::SoldOut {
            items.push(Line { product: SOLD_OUT, quantity: 1 });
        } else if fastrand::bool() {
            items.push(Line { product: fastrand::i32(10..SOLD_OUT), quantity: 1 });
        }
        let quote = catalogue::quote(&items).map_err(|failure| anyhow::anyhow!("{failure:?}"))?;
        let method = if kind == Kind::Declined { DECLINED } else { "card" };
        let new = NewOrder {
            user_id: self.id.clone(),
            shipping_address_id: self.address_id.clone(),
            billing_address_id: None,
            items,
            payment_method: method.to_owned(),
            notes: None,
        };
        let key = Uuid::new_v4();
        let number = order_number(key)?;
        let answer = shopper.send_with_key(Method::POST, "/orders", &new, key).await?;
        ensure!(matches!(answer.status, 200 | 201), "POST /orders: {} {}", answer.status, answer.body);
        let made = answer.json();
        ensure!(made["order_number"] == number.as_str(), "another order number: {made}");
        let placed = Placed {
            email: self.email.clone(),
            name: format!("{} {}", self.name.0, self.name.1),
            phone: self.phone.clone(),
            line1: self.address.line1.clone(),
            pincode: self.address.pincode.clone(),
            total: money(quote.total),
            fate: kind.fate(),
        };
        shopper.ledger.place(&number, placed);
        Ok(id(&made))
    }
}

fn order_number(key: Uuid) -> Result<String> {
    let mut headers = axum::http::HeaderMap::new();
    headers.insert("idempotency-key", key.to_string().parse()?);
    ids::order_number(&headers).map_err(|failure| anyhow::anyhow!("{failure:?}"))
}

fn any_address() -> Address {
    let (city, state, pincode) = CITIES[fastrand::usize(..CITIES.len())];
    Address {
        line1: format!("{} Ledger Street", fastrand::u32(1..1_000_000)),
        line2: None,
        city: city.to_owned(),
        state: state.to_owned(),
        country: "India".to_owned(),
        pincode: pincode.to_owned(),
        is_default: true,
        place: "home".to_owned(),
        version: None,
    }
}

async fn ends(shopper: &Shopper, order: &str, fate: Fate) -> Result<()> {
    shopper.until(&format!("/orders/{order}"), |order| fate.fits(order["status"].as_str().unwrap_or_default())).await?;
    Ok(())
}

/// Cancels as soon as possible. An order whose parcel is not known yet is asked again.
async fn cancel(shopper: &Shopper, order: &str) -> Result<()> {
    shopper.must(Method::POST, &format!("/orders/{order}/cancel"), &Value::Null).await?;
    ends(shopper, order, Fate::Undone).await
}

/// Carries the parcel.
async fn ship(shopper: &Shopper, order: &str, kind: Kind) -> Result<()> {
    let parcel = shopper.until(&format!("/shipments/by-order/{order}"), |_| true).await?;
    let path = format!("/shipments/{}", id(&parcel));
    shopper.must(Method::POST, &format!("{path}/assign"), &Value::Null).await?;
    shopper.must(Method::POST, &format!("{path}/dispatch"), &Value::Null).await?;
    if kind != Kind::Delivered {
        let reason = Some("nobody at home".to_owned());
        let attempt = Attempt { attempt_number: 1, status: "FAILED".to_owned(), reason };
        shopper.must(Method::POST, &format!("{path}/attempts"), &attempt).await?;
    }
    if kind == Kind::GivenBack {
        let why = Reason { reason: Some("refused at the door".to_owned()), before_dispatch: false };
        shopper.must(Method::POST, &format!("{path}/return"), &why).await?;
        return ends(shopper, order, Fate::Returned).await;
    }
    shopper.must(Method::POST, &format!("{path}/deliver"), &Value::Null).await?;
    ends(shopper, order, Fate::Completed).await
}

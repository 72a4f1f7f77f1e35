//! What clients send. The monolith and the services take the same, since the facade hides which of
//! them answers.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct NewUser {
    pub email: String,
    pub password: String,
    pub first_name: String,
    pub last_name: String,
    pub phone: String,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Credentials {
    pub email: String,
    pub password: String,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Profile {
    pub first_name: String,
    pub last_name: String,
    pub phone: String,
}

#[derive(Debug, Clone, Deserialize, Serialize, PartialEq, Eq)]
pub struct Address {
    pub line1: String,
    pub line2: Option<String>,
    pub city: String,
    pub state: String,
    pub country: String,
    pub pincode: String,
    #[serde(default)]
    pub is_default: bool,
    /// `home`, `work`, …
    #[serde(rename = "type", default = "home")]
    pub place: String,
    /// The version that the client has read; another one means a conflict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<i32>,
}

fn home() -> String {
    "home".to_owned()
}

#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct NewOrder {
    pub user_id: String,
    pub shipping_address_id: String,
    pub billing_address_id: Option<String>,
    pub items: Vec<Line>,
    /// `card`, `cod`, or `declined-card`, which the bank refuses
    pub payment_method: String,
    pub notes: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
pub struct Line {
    /// The number of the product
    pub product: i32,
    pub quantity: i32,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Attempt {
    pub attempt_number: i32,
    /// `FAILED` or `RESCHEDULED`; a delivery is recorded as `SUCCESS`
    pub status: String,
    pub reason: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
pub struct Reason {
    pub reason: Option<String>,
    /// A parcel that has left stays on its way.
    #[serde(default)]
    pub before_dispatch: bool,
}

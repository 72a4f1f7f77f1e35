//! Ids. A client may use the serial number that the monolith gave, or a UUID.

use axum::http::HeaderMap;
use tokio_postgres::GenericClient;
use uuid::Uuid;

use crate::web::Failure;

/// An id as a client writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnyId {
    Serial(i32),
    Uuid(Uuid),
}

impl AnyId {
    /// Reads an id of this kind (`user`, `address`, `order`, `shipment`).
    pub fn parse(kind: &'static str, text: &str) -> Result<Self, Failure> {
        if let Ok(serial) = text.parse() {
            return Ok(Self::Serial(serial));
        }
        text.parse().map(Self::Uuid).map_err(|_| Failure::NotFound(kind))
    }
}

/// The UUID, in a service.
pub async fn uuid(client: &impl GenericClient, kind: &'static str, text: &str) -> Result<Uuid, Failure> {
    match AnyId::parse(kind, text)? {
        AnyId::Uuid(id) => Ok(id),
        AnyId::Serial(serial) => {
            let query = "SELECT id FROM legacy_ids WHERE kind = $1 AND serial = $2";
            let found = client.query_opt(query, &[&kind, &serial]).await?;
            found.map(|row| row.get(0)).ok_or(Failure::NotFound(kind))
        }
    }
}

/// The serial number, in the monolith.
pub async fn serial(client: &impl GenericClient, kind: &'static str, text: &str) -> Result<i32, Failure> {
    match AnyId::parse(kind, text)? {
        AnyId::Serial(serial) => Ok(serial),
        AnyId::Uuid(id) => {
            let query = "SELECT serial FROM id_map WHERE kind = $1 AND id = $2";
            let found = client.query_opt(query, &[&kind, &id]).await?;
            found.map(|row| row.get(0)).ok_or(Failure::NotFound(kind))
        }
    }
}

/// The number of a new order. It follows from the request's `Idempotency-Key`, so a request that is
/// repeated finds the order that it made, in the monolith or in the service.
pub fn order_number(headers: &HeaderMap) -> Result<String, Failure> {
    let key = headers.get("idempotency-key").and_then(|value| value.to_str().ok());
    let key = key.and_then(|text| text.parse::<Uuid>().ok());
    let key = key.ok_or_else(|| Failure::Invalid("the header Idempotency-Key has to be a UUID".to_owned()))?;
    let text = key.simple().to_string().to_uppercase();
    Ok(format!("ORD-{}", &text[16..]))
}

/// The number of a parcel. It follows from the order's, so two attempts give the same one.
#[must_use]
pub fn tracking_number(order_number: &str) -> String {
    format!("TRK-{}", order_number.trim_start_matches("ORD-"))
}

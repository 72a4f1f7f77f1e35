//! Realistic rows to begin with: users with addresses, orders of all statuses, shipments with
//! attempts. The same number gives the same rows.

use anyhow::Result;
use serde_json::json;
use tokio_postgres::{Client, GenericClient};

use crate::{
    api::Line,
    catalogue::{self, PRODUCTS, SOLD_OUT, money},
    password,
};

/// The password of every seeded user.
pub const PASSWORD: &str = "correct horse battery staple";

const FIRST: [&str; 12] =
    ["Asha", "John", "Zoë", "Ravi", "Meera", "Tomás", "राज", "Lena", "Omar", "Ines", "Kavya", "Piotr"];
const LAST: [&str; 12] =
    ["Rao", "Doe", "Müller", "Iyer", "Nair", "García", "कुमार", "Berg", "Haddad", "Costa", "Shah", "Nowak"];

/// Cities with their states and pincodes. Every one of them has a carrier.
pub const CITIES: [(&str, &str, &str); 6] = [
    ("Mumbai", "Maharashtra", "400001"),
    ("Pune", "Maharashtra", "411001"),
    ("Bengaluru", "Karnataka", "560001"),
    ("Chennai", "Tamil Nadu", "600001"),
    ("Delhi", "Delhi", "110001"),
    ("Kolkata", "West Bengal", "700001"),
];

/// Fills the monolith with this many users, two orders for each, and the agents.
pub async fn monolith(client: &mut Client, users: u32) -> Result<()> {
    // One hash for all: hashing a thousand passwords would take a minute.
    let hash = password::hash(PASSWORD.to_owned()).await?;
    let random = fastrand::Rng::with_seed(7);
    let mut seeding = Seeding { random, hash };
    let transaction = client.transaction().await?;
    agents(&transaction).await?;
    for number in 1..=users {
        seeding.user(&transaction, number).await?;
    }
    Ok(transaction.commit().await?)
}

async fn agents(client: &impl GenericClient) -> Result<()> {
    for (number, (city, _, _)) in CITIES.iter().enumerate() {
        let insert = "INSERT INTO delivery_agents (name, phone, email, zone) VALUES ($1, $2, $3, $4)";
        let name = format!("{} {}", FIRST[number], LAST[(number * 5 + 1) % LAST.len()]);
        let (phone, email) = (format!("+91 70000 0000{number}"), format!("agent{number}@carriers.example"));
        client.execute(insert, &[&name, &phone, &email, city]).await?;
    }
    Ok(())
}

struct Seeding {
    random: fastrand::Rng,
    hash: String,
}

impl Seeding {
    async fn user(&mut self, client: &impl GenericClient, number: u32) -> Result<()> {
        let first = FIRST[self.random.usize(..FIRST.len())];
        let last = LAST[self.random.usize(..LAST.len())];
        let row = client
            .query_one(
                "INSERT INTO users (email, password_hash, first_name, last_name, phone, is_verified, created_at)
                 VALUES ($1, $2, $3, $4, $5, $6, CURRENT_TIMESTAMP - $7::int * interval '1 hour') RETURNING id",
                &[
                    &format!("user{number}@example.com"),
                    &self.hash,
                    &first,
                    &last,
                    &format!("+91 98{:08}", self.random.u32(..100_000_000)),
                    &self.random.bool(),
                    &self.random.i32(1..10_000),
                ],
            )
            .await?;
        let user: i32 = row.get(0);
        let mut addresses = Vec::new();
        for place in ["home", "work"].iter().take(self.random.usize(1..=2)) {
            let (city, state, pincode) = CITIES[self.random.usize(..CITIES.len())];
            let line1 = format!("{} {} Street", self.random.u32(1..200), LAST[self.random.usize(..LAST.len())]);
            let row = client
                .query_one(
                    "INSERT INTO addresses (user_id, address_line1, city, state, country, pincode, is_default, type)
                     VALUES ($1, $2, $3, $4, 'India', $5, $6, $7) RETURNING id",
                    &[&user, &line1, &city, &state, &pincode, &(*place == "home"), place],
                )
                .await?;
            addresses.push(row.get::<_, i32>(0));
        }
        for order in 0..self.random.u32(0..=4) {
            self.order(client, (user, &addresses), format!("ORD-{:06}", number * 10 + order)).await?;
        }
        Ok(())
    }

    async fn order(
        &mut self,
        client: &impl GenericClient,
        (user, addresses): (i32, &[i32]),
        number: String,
    ) -> Result<()> {
        let address = addresses[self.random.usize(..addresses.len())];
        let mut lines = vec![Line { product: self.random.i32(1..SOLD_OUT), quantity: self.random.i32(1..4) }];
        let other = self.random.i32(1..PRODUCTS);
        if other != lines[0].product {
            lines.push(Line { product: other, quantity: 1 });
        }
        let Ok(quote) = catalogue::quote(&lines) else { return Ok(()) };
        let (status, payment, shipment) = [
            ("CREATED", "PENDING", None),
            ("CONFIRMED", "PAID", Some("PENDING")),
            ("SHIPPED", "PAID", Some("DISPATCHED")),
            ("COMPLETED", "PAID", Some("DELIVERED")),
            ("COMPLETED", "PAID", Some("DELIVERED")),
            ("CANCELLED", "REFUNDED", None),
            ("RETURNED", "REFUNDED", Some("RETURNED")),
        ][self.random.usize(..7)];
        let [subtotal, tax, shipping, discount, total] =
            [quote.subtotal, quote.tax, quote.shipping_cost, quote.discount, quote.total].map(money);
        let items: Vec<_> = quote
            .lines
            .iter()
            .map(|line| {
                json!({ "product_id": line.product, "product_name": catalogue::name(line.product),
                    "sku": catalogue::sku(line.product), "quantity": line.quantity,
                    "unit_price": money(line.unit_price), "total_price": money(line.total_price) })
            })
            .collect();
        client
            .execute(
                "WITH made AS (
                     INSERT INTO orders (user_id, order_number, status, shipping_address_id, billing_address_id,
                         subtotal, tax, shipping_cost, discount, total, payment_method, payment_status)
                     VALUES ($1::int, $2::text, $3, $4::int, $4::int, $5::text::numeric, $6::text::numeric, $7::text::numeric,
                         $8::text::numeric, $9::text::numeric, 'card', $10) RETURNING id),
                 parcel AS (
                     INSERT INTO shipments (order_id, tracking_number, carrier, status, shipping_address_line1,
                         shipping_city, shipping_state, shipping_pincode, estimated_delivery, actual_delivery, weight,
                         dimensions)
                     SELECT made.id, 'TRK-' || substr($2::text, 5), $12::text, $13::text, a.address_line1, a.city, a.state, a.pincode,
                         CURRENT_DATE, CASE WHEN $13::text = 'DELIVERED' THEN CURRENT_DATE END, 1.50, '30x20x10'
                     FROM made, addresses a WHERE a.id = $4::int AND $13::text IS NOT NULL RETURNING id),
                 attempt AS (
                     INSERT INTO delivery_attempts (shipment_id, attempt_number, status, delivery_agent, notes)
                     SELECT id, 1, 'FAILED', (SELECT name FROM delivery_agents ORDER BY id LIMIT 1), 'nobody at home'
                     FROM parcel WHERE $13::text IN ('DELIVERED', 'RETURNED') AND $1::int % 3 = 0)
                 INSERT INTO order_items (order_id, product_id, product_name, sku, quantity, unit_price, total_price)
                 SELECT made.id, i.product_id, i.product_name, i.sku, i.quantity, i.unit_price, i.total_price
                 FROM made, jsonb_to_recordset($11) AS i (product_id int, product_name text, sku text, quantity int,
                     unit_price numeric, total_price numeric)",
                &[
                    &user, &number, &status, &address, &subtotal, &tax, &shipping, &discount, &total, &payment,
                    &serde_json::Value::from(items), &self.carrier(client, address).await?, &shipment,
                ],
            )
            .await?;
        Ok(())
    }

    async fn carrier(&self, client: &impl GenericClient, address: i32) -> Result<&'static str> {
        let row = client.query_one("SELECT pincode FROM addresses WHERE id = $1", &[&address]).await?;
        Ok(catalogue::carrier_for(row.get(0)).map_or("none", |carrier| carrier.name))
    }
}

/// Carriers and agents of the Logistics service, which the monolith has only by name.
pub async fn logistics(client: &impl GenericClient) -> Result<()> {
    let pincodes: Vec<&str> = CITIES.iter().map(|city| city.2).collect();
    for carrier in &catalogue::CARRIERS {
        let served: Vec<&str> = pincodes.iter().copied().filter(|pincode| carrier.serves(pincode)).collect();
        client
            .execute(
                "INSERT INTO carriers (name, code, api_endpoint, supports_cod, supports_express,
                     serviceable_pincodes)
                 VALUES ($1, $2::text, 'https://' || lower($2::text) || '.example/api', true, false, $3)
                 ON CONFLICT (code) DO NOTHING",
                &[&carrier.name, &carrier.code, &json!(served)],
            )
            .await?;
    }
    Ok(())
}

-- The Logistics service. The guide creates shipments first, which refers to carriers: a script in
-- that order fails. Here carriers comes first.

CREATE TABLE carriers (
    id                   UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    name                 VARCHAR(100) NOT NULL,
    code                 VARCHAR(20) UNIQUE NOT NULL,
    api_endpoint         VARCHAR(500),
    is_active            BOOLEAN DEFAULT TRUE,
    supports_cod         BOOLEAN DEFAULT FALSE,
    supports_express     BOOLEAN DEFAULT FALSE,
    serviceable_pincodes JSONB,
    created_at           TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);

CREATE TABLE shipments (
    id                  UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    -- An id, and no foreign key.
    order_id            UUID NOT NULL UNIQUE,
    order_number        VARCHAR(50) NOT NULL,
    tracking_number     VARCHAR(100) UNIQUE,
    carrier_id          UUID REFERENCES carriers(id),
    carrier_name        VARCHAR(100),
    status              VARCHAR(50) NOT NULL DEFAULT 'PENDING',
    -- Where it goes, copied from the order.
    recipient_name      VARCHAR(200) NOT NULL,
    recipient_phone     VARCHAR(20) NOT NULL,
    address_line1       VARCHAR(255) NOT NULL,
    address_line2       VARCHAR(255),
    city                VARCHAR(100) NOT NULL,
    state               VARCHAR(100) NOT NULL,
    pincode             VARCHAR(20) NOT NULL,
    weight_kg           DECIMAL(10,2),
    dimensions_cm       VARCHAR(50),
    package_count       INTEGER DEFAULT 1,
    estimated_delivery  DATE,
    actual_delivery     TIMESTAMP,
    created_at          TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at          TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    version             INTEGER DEFAULT 1
);

CREATE TABLE delivery_agents (
    id               UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    carrier_id       UUID REFERENCES carriers(id),
    name             VARCHAR(100) NOT NULL,
    phone            VARCHAR(20) NOT NULL,
    email            VARCHAR(255),
    zone_id          UUID,
    zone_name        VARCHAR(100),
    is_active        BOOLEAN DEFAULT TRUE,
    current_capacity INTEGER DEFAULT 20,
    current_load     INTEGER DEFAULT 0,
    created_at       TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);

CREATE TABLE shipment_events (
    id                  UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    shipment_id         UUID NOT NULL REFERENCES shipments(id),
    event_type          VARCHAR(50) NOT NULL,
    location            VARCHAR(200),
    description         TEXT,
    agent_id            UUID REFERENCES delivery_agents(id),
    agent_name          VARCHAR(100),
    recipient_signature VARCHAR(500),
    delivery_photo      VARCHAR(500),
    created_at          TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);

CREATE TABLE delivery_attempts (
    id              UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    shipment_id     UUID NOT NULL REFERENCES shipments(id),
    agent_id        UUID REFERENCES delivery_agents(id),
    attempt_number  INTEGER NOT NULL,
    status          VARCHAR(50) NOT NULL,
    failure_reason  VARCHAR(200),
    scheduled_date  DATE,
    attempted_at    TIMESTAMP,
    notes           TEXT,
    created_at      TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);

CREATE TABLE logistics_outbox (
    id              UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    aggregate_type  VARCHAR(100) NOT NULL,
    aggregate_id    UUID NOT NULL,
    event_type      VARCHAR(100) NOT NULL,
    payload         JSONB NOT NULL,
    created_at      TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    published_at    TIMESTAMP NULL
);

CREATE INDEX idx_shipments_order_id ON shipments(order_id);
CREATE INDEX idx_shipments_tracking ON shipments(tracking_number);
CREATE INDEX idx_shipments_status ON shipments(status);
CREATE INDEX idx_shipment_events_shipment_id ON shipment_events(shipment_id);
CREATE INDEX idx_logistics_outbox_unpublished ON logistics_outbox(created_at) WHERE published_at IS NULL;

CREATE PUBLICATION outboxd_logistics FOR TABLE logistics_outbox WITH (publish = 'insert', publish_via_partition_root = true);

-- The Order service. It keeps ids of users, and copies of what it needs to know about them.

CREATE TABLE orders (
    id               UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    order_number     VARCHAR(50) UNIQUE NOT NULL,
    -- An id, and no foreign key.
    user_id          UUID NOT NULL,
    -- The customer as of the time of the order.
    customer_email   VARCHAR(255) NOT NULL,
    customer_name    VARCHAR(200),
    customer_phone   VARCHAR(20),
    status           VARCHAR(50) NOT NULL DEFAULT 'CREATED',
    -- The addresses as of the time of the order: address_id, line1, line2, city, state, pincode.
    shipping_address JSONB NOT NULL,
    billing_address  JSONB,
    subtotal         DECIMAL(10,2) NOT NULL,
    tax              DECIMAL(10,2) DEFAULT 0,
    shipping_cost    DECIMAL(10,2) DEFAULT 0,
    discount         DECIMAL(10,2) DEFAULT 0,
    total            DECIMAL(10,2) NOT NULL,
    payment_method   VARCHAR(50),
    payment_status   VARCHAR(50) DEFAULT 'PENDING',
    payment_id       UUID,
    notes            TEXT,
    created_at       TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at       TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    -- Optimistic locking: an UPDATE names the version that it has read.
    version          INTEGER DEFAULT 1
);

CREATE TABLE order_items (
    id              UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    order_id        UUID NOT NULL REFERENCES orders(id) ON DELETE CASCADE,
    -- The product as of the time of the order.
    product_id      UUID NOT NULL,
    product_name    VARCHAR(255) NOT NULL,
    sku             VARCHAR(100) NOT NULL,
    product_image   VARCHAR(500),
    quantity        INTEGER NOT NULL,
    unit_price      DECIMAL(10,2) NOT NULL,
    total_price     DECIMAL(10,2) NOT NULL,
    created_at      TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);

CREATE TABLE order_status_history (
    id              UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    order_id        UUID NOT NULL REFERENCES orders(id),
    from_status     VARCHAR(50),
    to_status       VARCHAR(50) NOT NULL,
    changed_by      VARCHAR(100),
    reason          TEXT,
    created_at      TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);

CREATE TABLE order_outbox (
    id              UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    aggregate_type  VARCHAR(100) NOT NULL,
    aggregate_id    UUID NOT NULL,
    event_type      VARCHAR(100) NOT NULL,
    payload         JSONB NOT NULL,
    created_at      TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    published_at    TIMESTAMP NULL
);

CREATE INDEX idx_orders_user_id ON orders(user_id);
CREATE INDEX idx_orders_status ON orders(status);
CREATE INDEX idx_orders_created_at ON orders(created_at DESC);
CREATE INDEX idx_order_outbox_unpublished ON order_outbox(created_at) WHERE published_at IS NULL;

CREATE PUBLICATION outboxd_order FOR TABLE order_outbox WITH (publish = 'insert', publish_via_partition_root = true);

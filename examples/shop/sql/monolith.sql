-- The monolith: one database for all three domains, tied together by foreign keys.

-- Users
CREATE TABLE users (
    id              SERIAL PRIMARY KEY,
    email           VARCHAR(255) UNIQUE NOT NULL,
    password_hash   VARCHAR(255) NOT NULL,
    first_name      VARCHAR(100),
    last_name       VARCHAR(100),
    phone           VARCHAR(20),
    is_verified     BOOLEAN DEFAULT FALSE,
    created_at      TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at      TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);

CREATE TABLE addresses (
    id              SERIAL PRIMARY KEY,
    user_id         INTEGER REFERENCES users(id) ON DELETE CASCADE,
    address_line1   VARCHAR(255) NOT NULL,
    address_line2   VARCHAR(255),
    city            VARCHAR(100) NOT NULL,
    state           VARCHAR(100) NOT NULL,
    country         VARCHAR(100) NOT NULL,
    pincode         VARCHAR(20) NOT NULL,
    is_default      BOOLEAN DEFAULT FALSE,
    type            VARCHAR(20) DEFAULT 'home',
    created_at      TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);

-- Orders
CREATE TABLE orders (
    id                  SERIAL PRIMARY KEY,
    user_id             INTEGER REFERENCES users(id),
    order_number        VARCHAR(50) UNIQUE NOT NULL,
    status              VARCHAR(50) NOT NULL,
    shipping_address_id INTEGER REFERENCES addresses(id),
    billing_address_id  INTEGER REFERENCES addresses(id),
    subtotal            DECIMAL(10,2) NOT NULL,
    tax                 DECIMAL(10,2) DEFAULT 0,
    shipping_cost       DECIMAL(10,2) DEFAULT 0,
    discount            DECIMAL(10,2) DEFAULT 0,
    total               DECIMAL(10,2) NOT NULL,
    payment_method      VARCHAR(50),
    payment_status      VARCHAR(50),
    notes               TEXT,
    created_at          TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at          TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);

CREATE TABLE order_items (
    id              SERIAL PRIMARY KEY,
    order_id        INTEGER REFERENCES orders(id) ON DELETE CASCADE,
    product_id      INTEGER NOT NULL,
    product_name    VARCHAR(255) NOT NULL,
    sku             VARCHAR(100) NOT NULL,
    quantity        INTEGER NOT NULL,
    unit_price      DECIMAL(10,2) NOT NULL,
    total_price     DECIMAL(10,2) NOT NULL,
    created_at      TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);

-- Logistics
CREATE TABLE shipments (
    id                      SERIAL PRIMARY KEY,
    order_id                INTEGER REFERENCES orders(id),
    tracking_number         VARCHAR(100) UNIQUE,
    carrier                 VARCHAR(100) NOT NULL,
    status                  VARCHAR(50) NOT NULL,
    -- A copy, so that the address of a parcel stays what it was.
    shipping_address_line1  VARCHAR(255),
    shipping_city           VARCHAR(100),
    shipping_state          VARCHAR(100),
    shipping_pincode        VARCHAR(20),
    estimated_delivery      DATE,
    actual_delivery         DATE,
    weight                  DECIMAL(10,2),
    dimensions              VARCHAR(50),
    created_at              TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at              TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);

CREATE TABLE delivery_attempts (
    id              SERIAL PRIMARY KEY,
    shipment_id     INTEGER REFERENCES shipments(id) ON DELETE CASCADE,
    attempt_number  INTEGER NOT NULL,
    status          VARCHAR(50) NOT NULL,
    delivery_agent  VARCHAR(100),
    notes           TEXT,
    attempted_at    TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);

CREATE TABLE delivery_agents (
    id              SERIAL PRIMARY KEY,
    name            VARCHAR(100) NOT NULL,
    phone           VARCHAR(20) NOT NULL,
    email           VARCHAR(255),
    zone            VARCHAR(100),
    is_active       BOOLEAN DEFAULT TRUE,
    created_at      TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);

CREATE VIEW order_summary AS
SELECT
    o.id,
    o.order_number,
    o.status AS order_status,
    o.total,
    u.email AS customer_email,
    u.first_name || ' ' || u.last_name AS customer_name,
    s.tracking_number,
    s.status AS shipping_status,
    s.carrier
FROM orders o
JOIN users u ON o.user_id = u.id
LEFT JOIN shipments s ON s.order_id = o.id;

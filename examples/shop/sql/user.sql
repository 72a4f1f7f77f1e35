-- The User service. Nothing here points into another database.

CREATE TABLE users (
    id              UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    email           VARCHAR(255) UNIQUE NOT NULL,
    password_hash   VARCHAR(255) NOT NULL,
    first_name      VARCHAR(100),
    last_name       VARCHAR(100),
    phone           VARCHAR(20),
    is_verified     BOOLEAN DEFAULT FALSE,
    created_at      TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at      TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    -- A deleted user keeps its row until `shop purge`.
    deleted_at      TIMESTAMP NULL
);

CREATE TABLE addresses (
    id              UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id         UUID NOT NULL REFERENCES users(id) ON DELETE CASCADE,
    address_line1   VARCHAR(255) NOT NULL,
    address_line2   VARCHAR(255),
    city            VARCHAR(100) NOT NULL,
    state           VARCHAR(100) NOT NULL,
    country         VARCHAR(100) NOT NULL,
    pincode         VARCHAR(20) NOT NULL,
    is_default      BOOLEAN DEFAULT FALSE,
    type            VARCHAR(20) DEFAULT 'home',
    created_at      TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    -- AddressUpdated carries it, so a reader can tell an old address from a new one.
    version         INTEGER DEFAULT 1
);

CREATE TABLE user_outbox (
    id              UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    aggregate_type  VARCHAR(100) NOT NULL,
    aggregate_id    UUID NOT NULL,
    event_type      VARCHAR(100) NOT NULL,
    payload         JSONB NOT NULL,
    created_at      TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    published_at    TIMESTAMP NULL
);

CREATE INDEX idx_user_outbox_unpublished ON user_outbox(created_at) WHERE published_at IS NULL;

CREATE PUBLICATION outboxd_user FOR TABLE user_outbox WITH (publish = 'insert', publish_via_partition_root = true);

-- The outbox of the user service, word for word as in the migration guide that it comes from.
CREATE TABLE user_outbox (
    id              UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    aggregate_type  VARCHAR(100) NOT NULL,  -- 'user', 'address'
    aggregate_id    UUID NOT NULL,
    event_type      VARCHAR(100) NOT NULL,  -- 'UserCreated', 'AddressUpdated'
    payload         JSONB NOT NULL,
    created_at      TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    published_at    TIMESTAMP NULL
);

CREATE INDEX idx_user_outbox_unpublished
ON user_outbox(created_at)
WHERE published_at IS NULL;

-- The outbox of the logistics service, word for word as in the migration guide that it comes from.
CREATE TABLE logistics_outbox (
    id              UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    aggregate_type  VARCHAR(100) NOT NULL,
    aggregate_id    UUID NOT NULL,
    event_type      VARCHAR(100) NOT NULL,
    payload         JSONB NOT NULL,
    created_at      TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    published_at    TIMESTAMP NULL
);

CREATE INDEX idx_logistics_outbox_unpublished
ON logistics_outbox(created_at)
WHERE published_at IS NULL;

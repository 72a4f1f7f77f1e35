-- The memory of a consumer. A row is inserted in the transaction of the effect, so an event that
-- comes again finds its row and has no second effect. Rows that are older than the topic's
-- retention may be deleted.
CREATE TABLE IF NOT EXISTS inbox (
    consumer    TEXT NOT NULL,
    event_id    UUID NOT NULL,
    received_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, event_id)
);

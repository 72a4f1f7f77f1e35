-- The dual write, without writing twice: a deferred trigger puts the image of what a transaction
-- changed into an outbox, in the same transaction. outboxd carries it to the other database.
CREATE TABLE sync_outbox (
    id              UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    aggregate_type  VARCHAR(100) NOT NULL,
    aggregate_id    UUID NOT NULL,
    event_type      VARCHAR(100) NOT NULL,
    payload         JSONB NOT NULL,
    created_at      TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    published_at    TIMESTAMP NULL
);
CREATE INDEX sync_outbox_unpublished ON sync_outbox(created_at) WHERE published_at IS NULL;

-- The trigger's arguments: the kind of aggregate, the column with its id, the type of that column.
-- What the other side has sent (shop.applying) is not sent back.
CREATE FUNCTION emit_image() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed JSONB := to_jsonb(CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END);
    image JSONB;
BEGIN
    IF current_setting('shop.applying', true) = 'on' THEN
        RETURN NULL;
    END IF;
    EXECUTE format('SELECT %I($1::%s)', TG_ARGV[0] || '_image', TG_ARGV[2])
        INTO image USING changed ->> TG_ARGV[1];
    IF image IS NULL THEN
        RETURN NULL;
    END IF;
    INSERT INTO sync_outbox (aggregate_type, aggregate_id, event_type, payload)
    VALUES (current_database(), (image ->> 'id')::uuid, TG_ARGV[0] || '_image', image);
    RETURN NULL;
END $$;

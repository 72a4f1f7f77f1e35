-- What the migration adds to the monolith: UUIDs for serial ids, the modules that it still owns,
-- and an outbox for the events of its logistics module.
CREATE TABLE id_map (
    kind    TEXT NOT NULL,
    serial  INTEGER NOT NULL,
    id      UUID NOT NULL DEFAULT gen_random_uuid(),
    -- Users that were deleted in the service, and must stay here since orders refer to them.
    gone_at TIMESTAMP,
    PRIMARY KEY (kind, serial),
    UNIQUE (kind, id)
);

CREATE FUNCTION uuid_of(wanted_kind TEXT, wanted INTEGER) RETURNS UUID LANGUAGE plpgsql AS $$
DECLARE
    found UUID;
BEGIN
    IF wanted IS NULL THEN
        RETURN NULL;
    END IF;
    SELECT m.id INTO found FROM id_map m WHERE m.kind = wanted_kind AND m.serial = wanted;
    IF found IS NULL THEN
        INSERT INTO id_map (kind, serial) VALUES (wanted_kind, wanted) ON CONFLICT DO NOTHING;
        SELECT m.id INTO found FROM id_map m WHERE m.kind = wanted_kind AND m.serial = wanted;
    END IF;
    RETURN found;
END $$;

-- The serial of a UUID. A row that was born in a service gets the next one of its sequence.
CREATE FUNCTION serial_of(wanted_kind TEXT, wanted UUID, numbers REGCLASS) RETURNS INTEGER LANGUAGE plpgsql AS $$
DECLARE
    found INTEGER;
BEGIN
    IF wanted IS NULL THEN
        RETURN NULL;
    END IF;
    SELECT m.serial INTO found FROM id_map m WHERE m.kind = wanted_kind AND m.id = wanted;
    IF found IS NULL THEN
        INSERT INTO id_map (kind, serial, id) VALUES (wanted_kind, nextval(numbers), wanted)
        ON CONFLICT DO NOTHING;
        SELECT m.serial INTO found FROM id_map m WHERE m.kind = wanted_kind AND m.id = wanted;
    END IF;
    RETURN found;
END $$;

CREATE TABLE module_state (
    module  TEXT PRIMARY KEY,
    owner   BOOLEAN NOT NULL
);
INSERT INTO module_state VALUES ('users', true), ('orders', true), ('shipments', true);

CREATE TABLE shipment_outbox (
    id              UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    aggregate_type  VARCHAR(100) NOT NULL,
    aggregate_id    UUID NOT NULL,
    event_type      VARCHAR(100) NOT NULL,
    payload         JSONB NOT NULL,
    created_at      TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    published_at    TIMESTAMP NULL
);
CREATE INDEX shipment_outbox_unpublished ON shipment_outbox(created_at) WHERE published_at IS NULL;
CREATE PUBLICATION outboxd_monolith FOR TABLE shipment_outbox
    WITH (publish = 'insert', publish_via_partition_root = true);
CREATE PUBLICATION outboxd_monolith_sync FOR TABLE sync_outbox
    WITH (publish = 'insert', publish_via_partition_root = true);

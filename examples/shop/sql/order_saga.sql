-- What the Order service needs besides the guide's tables.

-- One row for each run of a saga: `state` is the step that comes next, `outcome` is NULL until the
-- saga has ended. An order has one saga of kind 'create', and one of kind 'return' if it came back.
CREATE TABLE saga (
    order_id    UUID NOT NULL REFERENCES orders(id),
    kind        TEXT NOT NULL CHECK (kind IN ('create', 'return')),
    state       TEXT NOT NULL,
    outcome     TEXT CHECK (outcome IN ('completed', 'compensated', 'returned', 'migrated')),
    reason      TEXT,
    attempts    INTEGER NOT NULL DEFAULT 0,
    -- Until then one process works on it. A process that dies leaves it to the next one.
    lease_until TIMESTAMPTZ,
    created_at  TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at  TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (order_id, kind)
);
CREATE INDEX saga_open ON saga (updated_at) WHERE outcome IS NULL;

-- Users of whom UserDeleted has been read: this takes the place of the foreign key to users.
CREATE TABLE deleted_users (
    user_id     UUID PRIMARY KEY,
    deleted_at  TIMESTAMPTZ NOT NULL DEFAULT now()
);

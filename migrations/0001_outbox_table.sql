-- The outbox table. The service inserts into it within its own transactions; outboxd reads it and marks its rows.
--
-- How to read these files: `setup` runs the statements by name, each begins at its `-- name:` line. A word in double
-- braces is filled in: names are quoted, so braces stand where an identifier or a list stands.

-- name: create-schema
CREATE SCHEMA IF NOT EXISTS {{schema}};

-- name: create-table
CREATE TABLE IF NOT EXISTS {{table}} (
    {{id}} uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    {{aggregate_type}} varchar(100) NOT NULL,
    {{aggregate_id}} varchar(255) NOT NULL,
    {{event_type}} varchar(100) NOT NULL,
    {{payload}} jsonb NOT NULL,
    {{created_at}} timestamptz NOT NULL DEFAULT now(),
    {{published_at}} timestamptz{{more_columns}}
);

-- Only with mark = "update". Rows that wait are few among all that were published: this finds them for metrics and for
-- the backfill.
-- name: create-index
CREATE INDEX IF NOT EXISTS {{index}} ON {{table}} ({{created_at}}) WHERE {{published_at}} IS NULL;

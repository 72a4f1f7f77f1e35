-- The outbox table in another shape, on which marks are HOT updates: each mark stays within its page and writes no
-- index. It is for mark = "update" where marking limits the rate. docs/operating/marks.md says what it gains and
-- costs, and how a table that exists comes to this shape.
--
-- `setup` does not run this file. Write your table's name in place of order_outbox, and run the file with psql before
-- `setup`. `setup` leaves a table that exists as it is, and makes the rest.

CREATE TABLE order_outbox (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    aggregate_type varchar(100) NOT NULL,
    aggregate_id varchar(255) NOT NULL,
    event_type varchar(100) NOT NULL,
    payload jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    published_at timestamptz
) WITH (
    -- A row is written once and marked once: each page needs room for a second copy of all its rows.
    fillfactor = 50,
    -- VACUUM is also what brings the index below up to date.
    autovacuum_vacuum_scale_factor = 0.02
);

-- No index may name published_at, neither as a column nor in its WHERE. Since Postgres 16 a BRIN index may, and it
-- finds the pages with unpublished rows for metrics and backfill. On Postgres 15 both read the whole table.
DO $$
BEGIN
    IF current_setting('server_version_num')::int >= 160000 THEN
        CREATE INDEX idx_order_outbox_published_at ON order_outbox USING brin (published_at);
    END IF;
END
$$;

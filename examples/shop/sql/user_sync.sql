CREATE FUNCTION user_image(wanted UUID) RETURNS JSONB LANGUAGE sql AS $$
    SELECT to_jsonb(u) - 'deleted_at' || jsonb_build_object(
        'deleted', u.deleted_at IS NOT NULL,
        'addresses', coalesce(
            (SELECT jsonb_agg(to_jsonb(a) - 'user_id' - 'version' ORDER BY a.id)
             FROM addresses a WHERE a.user_id = u.id), '[]'))
    FROM users u WHERE u.id = wanted
$$;
CREATE CONSTRAINT TRIGGER users_image AFTER INSERT OR UPDATE ON users
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION emit_image('user', 'id', 'uuid');
CREATE CONSTRAINT TRIGGER addresses_image AFTER INSERT OR UPDATE OR DELETE ON addresses
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION emit_image('user', 'user_id', 'uuid');
CREATE PUBLICATION outboxd_user_sync FOR TABLE sync_outbox
    WITH (publish = 'insert', publish_via_partition_root = true);

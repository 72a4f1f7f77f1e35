CREATE FUNCTION shipment_image(wanted UUID) RETURNS JSONB LANGUAGE sql AS $$
    SELECT jsonb_build_object(
        'id', s.id, 'order_id', s.order_id, 'order_number', s.order_number,
        'tracking_number', s.tracking_number, 'carrier', s.carrier_name, 'status', s.status,
        'line1', s.address_line1, 'city', s.city, 'state', s.state, 'pincode', s.pincode,
        'estimated_delivery', s.estimated_delivery, 'actual_delivery', s.actual_delivery::date,
        'weight', s.weight_kg, 'dimensions', s.dimensions_cm, 'created_at', s.created_at,
        'snapshot', jsonb_build_object('recipient_name', s.recipient_name, 'recipient_phone', s.recipient_phone),
        'attempts', coalesce(
            (SELECT jsonb_agg(jsonb_build_object('attempt_number', d.attempt_number, 'status', d.status,
                'agent', g.name, 'notes', coalesce(d.notes, d.failure_reason)) ORDER BY d.attempt_number)
             FROM delivery_attempts d LEFT JOIN delivery_agents g ON g.id = d.agent_id
             WHERE d.shipment_id = s.id), '[]'))
    FROM shipments s WHERE s.id = wanted
$$;
CREATE CONSTRAINT TRIGGER shipments_image AFTER INSERT OR UPDATE ON shipments
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION emit_image('shipment', 'id', 'uuid');
CREATE PUBLICATION outboxd_logistics_sync FOR TABLE sync_outbox
    WITH (publish = 'insert', publish_via_partition_root = true);

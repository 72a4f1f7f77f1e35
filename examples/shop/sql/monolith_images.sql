-- Users, orders and shipments as both sides see them: UUIDs, and no column that one side lacks.
CREATE FUNCTION user_image(n INTEGER) RETURNS JSONB LANGUAGE sql AS $$
    SELECT coalesce(
        (SELECT to_jsonb(u) - 'id' || jsonb_build_object(
            'id', uuid_of('user', u.id),
            'legacy_id', u.id,
            'deleted', EXISTS (SELECT FROM id_map m WHERE m.kind = 'user' AND m.serial = u.id AND m.gone_at IS NOT NULL),
            'addresses', coalesce(
                (SELECT jsonb_agg(to_jsonb(a) - 'user_id' || jsonb_build_object(
                    'id', uuid_of('address', a.id), 'legacy_id', a.id) ORDER BY uuid_of('address', a.id))
                 FROM addresses a WHERE a.user_id = u.id), '[]'))
         FROM users u WHERE u.id = n),
        jsonb_build_object('id', uuid_of('user', n), 'deleted', true))
$$;

CREATE FUNCTION address_snapshot(n INTEGER) RETURNS JSONB LANGUAGE sql AS $$
    SELECT jsonb_build_object('address_id', uuid_of('address', a.id), 'line1', a.address_line1,
        'line2', a.address_line2, 'city', a.city, 'state', a.state, 'pincode', a.pincode)
    FROM addresses a WHERE a.id = n
$$;

-- The monolith never kept who the customer was when the order was made. So the copy in here is
-- what the customer is at the time of the image; the service keeps the first one that it gets.
CREATE FUNCTION order_image(n INTEGER) RETURNS JSONB LANGUAGE sql AS $$
    SELECT to_jsonb(o) - 'id' - 'user_id' - 'shipping_address_id' - 'billing_address_id' || jsonb_build_object(
        'id', uuid_of('order', o.id),
        'legacy_id', o.id,
        'user_id', uuid_of('user', o.user_id),
        'snapshot', jsonb_build_object(
            'customer_email', u.email,
            'customer_name', concat_ws(' ', u.first_name, u.last_name),
            'customer_phone', u.phone,
            'shipping_address', coalesce(address_snapshot(o.shipping_address_id), '{}'),
            'billing_address', address_snapshot(o.billing_address_id)),
        'items', coalesce(
            (SELECT jsonb_agg(jsonb_build_object('product', i.product_id, 'name', i.product_name, 'sku', i.sku,
                'quantity', i.quantity, 'unit_price', i.unit_price, 'total_price', i.total_price) ORDER BY i.sku)
             FROM order_items i WHERE i.order_id = o.id), '[]'))
    FROM orders o JOIN users u ON u.id = o.user_id WHERE o.id = n
$$;

CREATE FUNCTION shipment_image(n INTEGER) RETURNS JSONB LANGUAGE sql AS $$
    SELECT jsonb_build_object(
        'id', uuid_of('shipment', s.id),
        'legacy_id', s.id,
        'order_id', uuid_of('order', s.order_id),
        'order_number', o.order_number,
        'tracking_number', s.tracking_number,
        'carrier', s.carrier,
        'status', s.status,
        'line1', s.shipping_address_line1, 'city', s.shipping_city,
        'state', s.shipping_state, 'pincode', s.shipping_pincode,
        'estimated_delivery', s.estimated_delivery, 'actual_delivery', s.actual_delivery,
        'weight', s.weight, 'dimensions', s.dimensions, 'created_at', s.created_at,
        -- Only the first image is read for these two, which the monolith does not keep.
        'snapshot', jsonb_build_object('recipient_name', concat_ws(' ', u.first_name, u.last_name),
            'recipient_phone', coalesce(u.phone, '')),
        'attempts', coalesce(
            (SELECT jsonb_agg(jsonb_build_object('attempt_number', d.attempt_number, 'status', d.status,
                'agent', d.delivery_agent, 'notes', d.notes) ORDER BY d.attempt_number)
             FROM delivery_attempts d WHERE d.shipment_id = s.id), '[]'))
    FROM shipments s JOIN orders o ON o.id = s.order_id JOIN users u ON u.id = o.user_id WHERE s.id = n
$$;

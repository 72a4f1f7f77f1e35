CREATE FUNCTION order_image(wanted UUID) RETURNS JSONB LANGUAGE sql AS $$
    SELECT to_jsonb(o) - 'payment_id' - 'version' - 'customer_email' - 'customer_name' - 'customer_phone'
            - 'shipping_address' - 'billing_address'
        || jsonb_build_object(
        'snapshot', jsonb_build_object(
            'customer_email', o.customer_email, 'customer_name', o.customer_name,
            'customer_phone', o.customer_phone, 'shipping_address', o.shipping_address,
            'billing_address', o.billing_address),
        'items', coalesce(
            (SELECT jsonb_agg(jsonb_build_object('product', right(i.sku, 3)::int, 'name', i.product_name, 'sku', i.sku,
                'quantity', i.quantity, 'unit_price', i.unit_price, 'total_price', i.total_price) ORDER BY i.sku)
             FROM order_items i WHERE i.order_id = o.id), '[]'))
    FROM orders o WHERE o.id = wanted
$$;
CREATE CONSTRAINT TRIGGER orders_image AFTER INSERT OR UPDATE ON orders
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION emit_image('order', 'id', 'uuid');
CREATE PUBLICATION outboxd_order_sync FOR TABLE sync_outbox
    WITH (publish = 'insert', publish_via_partition_root = true);

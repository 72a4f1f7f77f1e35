-- Stand-ins for the Product and Payment services, which the guide names and does not build.
CREATE TABLE stock (
    sku      TEXT PRIMARY KEY,
    initial  INTEGER NOT NULL,
    on_hand  INTEGER NOT NULL CHECK (on_hand >= 0)
);

CREATE TABLE reservations (
    order_id UUID NOT NULL,
    sku      TEXT NOT NULL REFERENCES stock(sku),
    quantity INTEGER NOT NULL,
    released BOOLEAN NOT NULL DEFAULT FALSE,
    PRIMARY KEY (order_id, sku)
);

CREATE TABLE payments (
    id       UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    order_id UUID NOT NULL UNIQUE,
    amount   DECIMAL(10,2) NOT NULL,
    refunded BOOLEAN NOT NULL DEFAULT FALSE
);

-- An undo that came before what it undoes. The late request finds this row, and is refused.
CREATE TABLE closed (
    order_id UUID NOT NULL,
    what     TEXT NOT NULL,
    PRIMARY KEY (order_id, what)
);

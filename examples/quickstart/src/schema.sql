create table orders (
    id          uuid        primary key,
    sku         text        not null,
    quantity    integer     not null check (quantity > 0),
    total_cents bigint      not null,
    placed_at   timestamptz not null default now()
);

create table reservations (order_id uuid primary key, sku text not null, quantity integer not null);

create table revenue (sku text primary key, orders bigint not null, cents bigint not null);

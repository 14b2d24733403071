-- Prices and the policies that they were computed by. Amounts are in the currency's smallest unit. How migrations may change this:
-- see the chassis's first.

create table price (
    ticket_id text collate "C" primary key,
    -- Null until the ticket's own event has come: what came before it waits.
    start_time timestamptz,
    schedule_revision bigint not null,
    -- Of who holds the ticket; null if nobody does.
    grade text,
    reservation_revision bigint not null,
    policy_version bigint not null,
    revision bigint not null,
    currency text,
    base_price bigint,
    discounted_price bigint,
    -- [[rule_id, description, amount], ...]
    discounts text,
    update_time timestamptz,
    check ((start_time is null) = (discounted_price is null))
);

-- For lists and republishing.
create index price_computed on price (ticket_id) where start_time is not null;
-- For a new policy: what nobody holds, by the version that it was computed by.
create index price_to_recompute on price (policy_version) where start_time is not null and grade is null;

-- Every version ever given; the highest is in force.
create table policy (
    version bigint primary key,
    body bytea not null
);

-- The replicas of the control plane that live, so that each knows whether it is alone, and whose links died with it.
-- A release that does not register here is known by its lease and its links alone, as before.
create table replicas (
    replica_id text collate "C" primary key,
    since      timestamptz not null default now(),
    expires_at timestamptz not null
);

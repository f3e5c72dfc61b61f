-- Credentials of hosts, project roots and bindings, and the clean-up of sandboxes.
--
-- Safe while the previous release runs: everything added has a default that means what was so before.
-- Indexes are made within the migration's transaction, on tables of few rows.

-- A launch credential works once its launch is accepted; a retired one until its expiry.
alter table tokens add column accepted boolean not null default true;
alter table tokens add column lease_id text collate "C";
alter table tokens add column retired_at timestamptz;
alter table tokens add column revoked_reason text;

alter table hosts add column project_root text;
alter table hosts add column project_root_at timestamptz;

-- Which pools of a host may serve a project, and what the host says of it.
create table project_bindings (
    binding_id   text collate "C" primary key,
    host_id      text collate "C" not null references hosts on delete cascade,
    project_id   text collate "C" not null references projects on delete cascade,
    pool_keys    text[] not null,
    status       text not null default 'pending' check (status in ('pending', 'available', 'unavailable')),
    reason       text,
    revision     bigint not null default 1,          -- a report on an older one is ignored
    validated_at timestamptz,
    created_at   timestamptz not null default now(),
    updated_at   timestamptz not null default now(),
    unique (host_id, project_id)
);
create index project_bindings_of_project on project_bindings (project_id);
create index project_bindings_pending on project_bindings (host_id) where status = 'pending';

-- Whether the host said that nothing of the instance is left, and how asking for that goes.
alter table sandboxes add column released boolean not null default false;
alter table sandboxes add column cleanup_attempts integer not null default 0;
alter table sandboxes add column cleanup_next_at timestamptz;
alter table sandboxes add column cleanup_error text;
update sandboxes set released = true where status in ('stopped', 'failed', 'cancelled') or host_id is null;
-- squawk-ignore require-concurrent-index-creation
create index sandboxes_unclean on sandboxes (host_id)
    where not released and status in ('stopping', 'stopped', 'failed', 'cancelled', 'deleting');
-- squawk-ignore require-concurrent-index-creation
create index sandboxes_of_pool on sandboxes (pool_id)
    where status in ('pending_launch', 'launching', 'running', 'draining', 'stopping', 'expired');
-- squawk-ignore require-concurrent-index-creation
create index leases_of_sandbox on leases (sandbox_id) where ended_at is null;

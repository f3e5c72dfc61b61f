-- Accounts, projects, runs, tasks, assignments, the fleet, and the event log.
--
-- Hot and cold are apart: `tasks` is narrow and updated in place (nothing it updates is indexed, so
-- updates stay on their page), payloads and results have tables of their own, and the queue of ready
-- tasks is a small table of its own, so ten million finished tasks cost the scheduler nothing.
-- Identifiers are text that sorts by creation, compared as bytes (collate "C").
--
-- The tables that every task passes through carry no foreign keys: each check costs as much as the insert
-- itself. Their rows are written under the lock of the run they belong to, and `runs.delete` removes them
-- with it; a test looks for orphans.

create table users (
    user_id    text collate "C" primary key,
    name       text not null,
    email      text unique,
    created_at timestamptz not null default now()
);

create table tokens (
    token_id    text collate "C" primary key,
    family      text not null check (family in ('user', 'host', 'sandbox')),
    owner_id    text collate "C" not null references users on delete cascade,
    subject_id  text collate "C" not null,   -- the user, host or sandbox it speaks for
    name        text not null default '',
    secret_hash bytea not null,              -- sha-256 of 256 random bits
    created_at  timestamptz not null default now(),
    expires_at  timestamptz,
    revoked_at  timestamptz
);
create index tokens_subject on tokens (subject_id);

create table projects (
    project_id  text collate "C" primary key,
    owner_id    text collate "C" not null references users on delete cascade,
    project_key text collate "C" not null,
    name        text not null,
    metadata    json not null default '{}',
    created_at  timestamptz not null default now(),
    updated_at  timestamptz not null default now(),
    archived_at timestamptz,
    unique (owner_id, project_key)
);

create table runs (
    run_id              text collate "C" primary key,
    owner_id            text collate "C" not null references users on delete cascade,
    project_id          text collate "C" not null references projects,
    run_key             text collate "C" not null,
    name                text not null,
    metadata            json not null default '{}',
    budget              json,
    definition_digest   bytea not null,      -- of what created it, to tell a replay from a conflict
    closed              boolean not null default false,
    cancel_requested_at timestamptz,
    cancel_reason       text,
    state               text not null default 'CREATED',
    -- Tasks by state, in the order of the states' life: saved, blocked, queued, running, waiting,
    -- succeeded, failed, cancelled; then the optional ones among them, in the same order.
    counts              integer[] not null default '{0,0,0,0,0,0,0,0}',
    optional_counts     integer[] not null default '{0,0,0,0,0,0,0,0}',
    created_at          timestamptz not null default now(),
    updated_at          timestamptz not null default now(),
    completed_at        timestamptz,
    unique (owner_id, run_key)
) with (fillfactor = 70);
create index runs_newest on runs (owner_id, run_id desc);
create index runs_by_state on runs (owner_id, state, run_id desc);
create index runs_by_project on runs (project_id, run_id desc);

-- One row for every graph a run has taken: an identical body is a replay.
create table run_graphs (
    run_id     text collate "C" not null references runs on delete cascade,
    digest     bytea not null,
    created_at timestamptz not null default now(),
    primary key (run_id, digest)
);

-- Tasks of one class fit the same sandboxes; the scheduler looks at classes, not at tasks.
create table task_classes (
    class_id     integer generated always as identity primary key,
    owner_id     text collate "C" not null references users on delete cascade,
    project_id   text collate "C" not null references projects on delete cascade,
    adapter      text not null,
    capabilities text[] not null,            -- sorted
    -- Why its ready tasks could not be placed at the last look, or null.
    reason_code  text,
    reason_facts json,
    reason_at    timestamptz,
    unique (owner_id, project_id, adapter, capabilities)
);

create table tasks (
    task_id             text collate "C" primary key,
    run_id              text collate "C" not null,
    task_key            text collate "C" not null,
    class_id            integer not null,
    title               text not null,
    adapter             text not null,
    status              text not null,
    optional            boolean not null default false,
    priority            integer not null default 0,
    failure_policy      text not null default 'fail',
    attempts_max        smallint not null default 1,
    backoff_s           real not null default 1,
    backoff_s_max       real not null default 300,
    pending_count       integer not null default 0,   -- dependencies that do not yet let it go on
    attempt             smallint not null default 1,
    losses              smallint not null default 0,
    assignment_id       text collate "C",             -- the accepted one while RUNNING, then the last
    sandbox_id          text collate "C",
    created_at          timestamptz not null default now(),
    admitted_at         timestamptz,
    queued_at           timestamptz,
    started_at          timestamptz,
    finished_at         timestamptz,
    next_attempt_at     timestamptz,
    cancel_requested_at timestamptz,
    cancel_reason       text,
    error               json,
    unique (run_id, task_key)
) with (fillfactor = 80);

create table task_payloads (
    task_id    text collate "C" primary key,
    definition json not null
);

create table task_dependencies (
    depends_on text collate "C" not null,
    task_id    text collate "C" not null,
    primary key (depends_on, task_id)
);
create index task_dependencies_of on task_dependencies (task_id);

create table task_results (
    task_id       text collate "C" primary key,
    assignment_id text collate "C" not null,
    result        json not null
);

-- The queue: admitted tasks that may be placed now (or from not_before on). A row leaves it in the
-- transaction that offers the task, so being in it is the permission to be placed.
create table ready_tasks (
    task_id    text collate "C" primary key,
    class_id   integer not null,
    run_id     text collate "C" not null,
    priority   integer not null,
    queued_at  timestamptz not null,
    not_before timestamptz
) with (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 2000);
create index ready_tasks_heads on ready_tasks (class_id, run_id, priority desc, queued_at, task_id);
create index ready_tasks_delayed on ready_tasks (not_before) where not_before is not null;

create table assignments (
    assignment_id text collate "C" primary key,
    task_id       text collate "C" not null,
    run_id        text collate "C" not null,
    sandbox_id    text collate "C" not null,
    attempt       smallint not null,
    state         text not null,
    live          boolean not null default true,      -- offered or accepted: holds a slot
    offered_at    timestamptz not null default now(),
    accepted_at   timestamptz,
    ended_at      timestamptz,
    reason        text,
    check (live = (state in ('offered', 'accepted')))
) with (fillfactor = 80);
create index assignments_of_task on assignments (task_id);
create index assignments_live on assignments (sandbox_id) where live;

-- Lines of one assignment, as they arrived: a chunk starts at first_line. Append only.
create table log_chunks (
    assignment_id text collate "C" not null,
    first_line    integer not null,
    line_count    integer not null,
    lines         json not null,
    primary key (assignment_id, first_line)
);

-- The event log. Readers order by (transaction, event) and read only below the oldest transaction that
-- is still running, so an event that commits late is never skipped.
create table events (
    transaction_id xid8 not null default pg_current_xact_id(),
    event_id       bigint generated always as identity,
    owner_id       text collate "C" not null,
    run_id         text collate "C",
    task_id        text collate "C",
    type           text not null,
    at             timestamptz not null default now(),
    data           json,
    primary key (transaction_id, event_id)
);
create index events_of_run on events (run_id, transaction_id, event_id);

create table hosts (
    host_id      text collate "C" primary key,
    owner_id     text collate "C" not null references users on delete cascade,
    name         text not null,
    auto_bind    boolean not null default false,
    disabled_at  timestamptz,
    platform     text,
    arch         text,
    version      text,
    metadata     json not null default '{}',
    created_at   timestamptz not null default now(),
    updated_at   timestamptz not null default now()
);
create index hosts_of_owner on hosts (owner_id, host_id desc);

create table host_pools (
    pool_id         text collate "C" primary key,
    host_id         text collate "C" not null references hosts on delete cascade,
    pool_key        text collate "C" not null,
    provider        text not null,
    adapter         text not null,
    max_instances   integer not null,
    max_concurrency integer not null,
    capabilities    text[] not null,
    resource_bounds json not null default '{}',
    available       boolean not null default true,    -- in the host's last advertisement
    launch_failure  text,
    launch_retry_at timestamptz,
    launch_failures integer not null default 0,
    updated_at      timestamptz not null default now(),
    unique (host_id, pool_key)
);

-- A sandbox and the instance behind it. Without a pool it is one that somebody runs by hand.
create table sandboxes (
    sandbox_id      text collate "C" primary key,
    instance_id     text collate "C" not null unique,
    owner_id        text collate "C" not null references users on delete cascade,
    name            text not null,
    pool_id         text collate "C" references host_pools on delete set null,
    host_id         text collate "C" references hosts on delete set null,
    status          text not null check (status in ('pending_launch', 'launching', 'running', 'draining',
                        'stopping', 'stopped', 'failed', 'expired', 'cancelled', 'deleting')),
    reason          text,
    adapters        text[] not null default '{}',
    capabilities    text[] not null default '{}',
    max_concurrency integer not null default 0,
    idle_since      timestamptz,
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    ended_at        timestamptz
);
create index sandboxes_of_owner on sandboxes (owner_id, sandbox_id desc);
create index sandboxes_alive on sandboxes (status)
    where status in ('pending_launch', 'launching', 'running', 'draining', 'stopping', 'deleting');

-- What a host was asked to do and has not confirmed. Pushed; sent again on every connect.
create table leases (
    lease_id   text collate "C" primary key,
    host_id    text collate "C" not null references hosts on delete cascade,
    sandbox_id text collate "C" not null references sandboxes on delete cascade,
    action     text not null check (action in ('launch', 'stop')),
    data       json not null default '{}',
    created_at timestamptz not null default now(),
    sent_at    timestamptz,
    ended_at   timestamptz,
    ok         boolean,
    reason     text
);
create index leases_open on leases (host_id) where ended_at is null;

-- Links of sandboxes and hosts. Heartbeats stay in memory and reach this narrow table in batches.
create table links (
    peer_id       text collate "C" primary key,
    replica_id    text collate "C" not null,
    connection_id text collate "C" not null,
    connected     boolean not null,
    seen_at       timestamptz not null
) with (fillfactor = 50);

-- Who runs the loops of which there is one. A term never comes twice.
create table leaders (
    name       text primary key,
    holder     text not null,
    term       bigint not null,
    since      timestamptz not null,
    expires_at timestamptz not null
);

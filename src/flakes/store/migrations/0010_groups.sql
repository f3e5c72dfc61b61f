-- Tasks that tasks make: children, groups, what tasks wait for, and signals.
-- Indexes are made within the migration's transaction; those on `tasks` hold children only, of which there
-- are none before it. None of their columns is ever updated.

alter table tasks
    add column parent_task_id text collate "C",
    add column root_task_id   text collate "C",
    add column group_id       text collate "C",
    add column depth          smallint not null default 0,
    add column detached       boolean not null default false,
    add column child_count    integer not null default 0,
    add column wait_count     integer not null default 0;
-- squawk-ignore require-concurrent-index-creation
create index tasks_of_parent on tasks (parent_task_id, task_id) where parent_task_id is not null;
-- squawk-ignore require-concurrent-index-creation
create index tasks_of_group on tasks (group_id, task_id) where group_id is not null;

-- Written under the lock of the run. Counters are of ended members; the members are tasks_of_group.
create table task_groups (
    group_id      text collate "C" primary key,
    run_id        text collate "C" not null,
    owner_task_id text collate "C" not null,
    group_key     text collate "C" not null,
    name          text,
    status        text not null default 'OPEN'
                  check (status in ('OPEN', 'CLOSED', 'SUCCEEDED', 'FAILED', 'ABANDONED', 'CANCELLED')),
    join_rule     text not null check (join_rule in ('all_success', 'all_settled', 'first', 'quorum')),
    quorum        integer,
    children_max  integer,
    total         integer not null default 0,
    succeeded     integer not null default 0,
    failed        integer not null default 0,
    cancelled     integer not null default 0,
    created_at    timestamptz not null default now(),
    closed_at     timestamptz,
    settled_at    timestamptz,
    unique (owner_task_id, group_key)
) with (fillfactor = 70);

-- What was spawned under which operation id, to tell a replay from a conflict.
create table task_spawns (
    task_id      text collate "C" not null,
    operation_id text collate "C" not null,
    digest       bytea not null,
    child_ids    text[] not null,
    created_at   timestamptz not null default now(),
    primary key (task_id, operation_id)
);

create table waits (
    wait_id      text collate "C" primary key,
    run_id       text collate "C" not null,
    task_id      text collate "C" not null,
    operation_id text collate "C" not null,
    digest       bytea not null,
    kind         text not null,
    state        text not null default 'pending'
                 check (state in ('pending', 'settled', 'timed_out', 'cancelled')),
    group_id     text collate "C",
    signal_name  text collate "C",
    join_rule    text,
    needed       integer,
    total        integer not null default 0,
    succeeded    integer not null default 0,
    failed       integer not null default 0,
    cancelled    integer not null default 0,
    due_at       timestamptz,
    yields_for   text collate "C",              -- the assignment that was told to end because of it
    outcome      json,
    created_at   timestamptz not null default now(),
    settled_at   timestamptz,
    unique (task_id, operation_id)
) with (fillfactor = 70);
create index waits_of_group on waits (group_id) where state = 'pending';
create index waits_due on waits (due_at) where state = 'pending';
create index waits_yielding on waits (yields_for) where yields_for is not null;

-- The children that a wait counts.
create table wait_members (
    task_id text collate "C" not null,
    wait_id text collate "C" not null,
    primary key (task_id, wait_id)
);
create index wait_members_of on wait_members (wait_id);

create table signals (
    signal_id    text collate "C" primary key,
    run_id       text collate "C" not null,
    task_id      text collate "C" not null,
    name         text collate "C" not null,
    payload      json,
    sender       text collate "C" not null,     -- a user, or the task that sent it
    operation_id text collate "C",
    wait_id      text collate "C",              -- that took it
    created_at   timestamptz not null default now(),
    unique (task_id, sender, operation_id)
);
create index signals_queued on signals (task_id, name, signal_id) where wait_id is null;

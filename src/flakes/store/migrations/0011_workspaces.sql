-- Files as immutable commits, what a run has selected of them, and how that came.
-- Safe while the previous release runs: it knows nothing of any of this.
-- Indexes are made within the migration's transaction, on new tables.

create table workspaces (
    workspace_id      text collate "C" primary key,
    owner_id          text collate "C" not null references users on delete cascade,
    kind              text not null check (kind in ('snapshot', 'output', 'candidate', 'merged')),
    commit_id         text not null,
    tree_id           text not null,
    base_workspace_id text collate "C",
    head              text,
    run_id            text collate "C" references runs on delete cascade,
    task_id           text collate "C",                -- of that run, so it goes with it
    assignment_id     text collate "C",
    pack_digests      text[] not null,                 -- everything needed to make it, oldest first
    pack_sizes        bigint[] not null,
    paths             json,
    changes           json not null default '[]',
    change_count      integer not null default 0,
    created_at        timestamptz not null default now(),
    used_at           timestamptz not null default now()
);
create unique index workspaces_once on workspaces
    (owner_id, commit_id, kind, coalesce(run_id, ''), coalesce(task_id, ''));
create index workspaces_of_run on workspaces (run_id, workspace_id desc) where run_id is not null;
create index workspaces_of_task on workspaces (task_id, workspace_id desc) where task_id is not null;
create index workspaces_of_base on workspaces (base_workspace_id) where base_workspace_id is not null;
create index workspaces_unbound on workspaces (used_at) where run_id is null;
create index workspaces_packs on workspaces using gin (pack_digests);

create table workspace_refs (
    run_id       text collate "C" not null references runs on delete cascade,
    name         text collate "C" not null,
    workspace_id text collate "C" not null,
    version      integer not null,
    updated_at   timestamptz not null default now(),
    primary key (run_id, name)
);
create index workspace_refs_to on workspace_refs (workspace_id);

create table workspace_promotions (
    run_id            text collate "C" not null references runs on delete cascade,
    name              text collate "C" not null,
    version           integer not null,
    from_workspace_id text collate "C",
    to_workspace_id   text collate "C" not null,
    mode              text not null check (mode in ('initial', 'replace_bounded_paths', 'fast_forward')),
    paths             json,
    user_id           text collate "C",
    assignment_id     text collate "C",
    promoted_at       timestamptz not null default now(),
    primary key (run_id, name, version)
);
create index workspace_promotions_to on workspace_promotions (to_workspace_id);

-- What a run began from, and whether any of its tasks has stored files: offers look no further otherwise.
alter table runs add column workspace_id text collate "C";
alter table runs add column has_workspaces boolean not null default false;

create function note_blobs_of_workspaces() returns trigger language plpgsql as $$
begin
    insert into blob_notes (digest, due_at)
    select distinct d, now() from gone, unnest(gone.pack_digests) d
    order by d
    on conflict (digest) do update set due_at = greatest(blob_notes.due_at, excluded.due_at);
    return null;
end $$;

create trigger note_blobs_of_deleted_workspaces after delete on workspaces
    referencing old table as gone for each statement execute function note_blobs_of_workspaces();

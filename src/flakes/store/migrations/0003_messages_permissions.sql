-- What people and running attempts say to each other: messages in, permission requests out.
--
-- Both belong to one assignment and end with it. The partial indexes hold the open ones only, so the end
-- of an attempt asks them for nothing in no time.

create table messages (
    message_id    text collate "C" primary key,
    owner_id      text collate "C" not null,
    run_id        text collate "C" not null,
    task_id       text collate "C" not null,
    assignment_id text collate "C" not null,
    sandbox_id    text collate "C" not null,
    mode          text not null check (mode in ('follow_up', 'steer')),
    message       text not null,
    state         text not null default 'queued'
                  check (state in ('queued', 'delivered', 'consumed', 'undeliverable')),
    reason        text,
    created_at    timestamptz not null default now(),
    sent_at       timestamptz,               -- a replica gave it to the sandbox's connection
    delivered_at  timestamptz,
    consumed_at   timestamptz,
    ended_at      timestamptz
);
create index messages_of_task on messages (task_id, message_id desc);
create index messages_open on messages (assignment_id) where state in ('queued', 'delivered');
create index messages_queued on messages (sandbox_id) where state = 'queued';

create table permissions (
    permission_id text collate "C" primary key,
    owner_id      text collate "C" not null,
    run_id        text collate "C" not null,
    task_id       text collate "C" not null,
    assignment_id text collate "C" not null,
    operation_id  text collate "C" not null, -- the asker's own name for the question
    asked_digest  bytea not null,            -- of the question, to tell a replay from a conflict
    prompt        text not null,
    action        text,
    details       json not null default '{}',
    status        text not null default 'pending'
                  check (status in ('pending', 'approved', 'denied', 'expired', 'cancelled')),
    reason        text,
    fallback      text check (fallback in ('approved', 'denied')),
    expires_at    timestamptz,
    created_at    timestamptz not null default now(),
    ended_at      timestamptz,
    unique (assignment_id, operation_id),
    check ((fallback is null) = (expires_at is null))
);
create index permissions_of_task on permissions (task_id, permission_id desc);
create index permissions_of_owner on permissions (owner_id, permission_id desc);
create index permissions_inbox on permissions (owner_id, permission_id desc) where status = 'pending';
create index permissions_open on permissions (assignment_id) where status = 'pending';
create index permissions_expiring on permissions (expires_at) where status = 'pending';

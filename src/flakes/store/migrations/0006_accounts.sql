-- Signing in: passwords, one-time codes, the device flow, scoped keys, and limits on guessing.
-- Everything here is small and read on no hot path; indexes are made within the migration's transaction.

-- An account is made once its address is proved, so an e-mail address that is there is a verified one.
-- It is stored in lower case.
alter table users add column password_hash text;            -- Argon2id, with its parameters
alter table users add column updated_at timestamptz not null default now();

-- What kind of credential a token of the family `user` is: `token` (a local session's, and every token of a
-- host or sandbox), `browser` (only ever taken from the cookie), `cli` (the device flow) or `key`.
alter table tokens add column kind text not null default 'token';
alter table tokens add column scope text not null default 'admin';   -- read, write or admin
alter table tokens add column client text not null default '';       -- what signed in, in its own words
alter table tokens add column address text;                          -- where from
alter table tokens add column last_used_at timestamptz;              -- to a few minutes
-- Revocations and ends of the last minute are looked for while streams are open.
-- squawk-ignore require-concurrent-index-creation
create index tokens_revoked on tokens (revoked_at) where revoked_at is not null;
-- squawk-ignore require-concurrent-index-creation
create index tokens_expiring on tokens (expires_at) where expires_at is not null;

-- Codes that work once, for a while, and for a few tries. The short ones that people type are hashed together
-- with a secret that only the browser which asked for them holds.
create table one_time_codes (
    code_id      text collate "C" primary key,
    purpose      text not null check (purpose in ('browser_link', 'sign_up', 'reset_password', 'oidc')),
    secret_hash  bytea not null,
    user_id      text collate "C" references users on delete cascade,
    email        text,
    data         json not null default '{}',
    attempts     smallint not null default 0,
    attempts_max smallint not null,
    created_at   timestamptz not null default now(),
    expires_at   timestamptz not null,
    used_at      timestamptz
);
create index one_time_codes_age on one_time_codes (expires_at);
create index one_time_codes_of_user on one_time_codes (user_id) where user_id is not null;

-- The device authorization grant of RFC 8628.
create table device_grants (
    grant_id       text collate "C" primary key,
    secret_hash    bytea not null,             -- of the device code
    user_code_hash bytea not null unique,
    client         text not null,
    address        text,
    status         text not null default 'pending' check (status in ('pending', 'approved', 'denied', 'used')),
    user_id        text collate "C" references users on delete cascade,
    poll_s         smallint not null,          -- the device may ask this often, or is told to slow down
    polled_at      timestamptz,
    created_at     timestamptz not null default now(),
    expires_at     timestamptz not null
);
create index device_grants_age on device_grants (expires_at);
create index device_grants_of_user on device_grants (user_id) where user_id is not null;

-- How often something may be tried, by a digest of what and by whom: a leaky bucket that is empty at `empty_at`.
create table rate_limits (
    key_digest bytea primary key,
    empty_at   timestamptz not null
) with (fillfactor = 50);
create index rate_limits_age on rate_limits (empty_at);

-- Who an account is at an OpenID Connect provider.
create table external_identities (
    issuer     text not null,
    subject    text not null,
    user_id    text collate "C" not null references users on delete cascade,
    created_at timestamptz not null default now(),
    primary key (issuer, subject)
);
create index external_identities_of_user on external_identities (user_id);

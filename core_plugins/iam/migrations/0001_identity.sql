-- phase: expand
-- up
create table tenants (
  tenant_id uuid not null default pk.tenant_id(),
  slug text not null,
  name text not null,
  status text not null default 'active' check (status in ('active', 'suspended')),
  time_zone text not null,
  locale text not null,
  currency text not null,
  region text not null default '',
  owner_id uuid not null,
  announced_at timestamptz,
  version bigint not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (tenant_id),
  constraint tenants_slug_key unique (slug));
select pk.protect('tenants');

create table users (
  tenant_id uuid not null default pk.tenant_id(),
  id uuid not null,
  email text not null,
  email_key text not null,
  name text not null,
  status text not null default 'active' check (status in ('active', 'suspended')),
  password_hash text,
  last_login_at timestamptz,
  version bigint not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (tenant_id, id),
  foreign key (tenant_id) references tenants (tenant_id) on delete cascade,
  constraint users_email_key unique (tenant_id, email_key));
create index users_created_at on users (tenant_id, created_at, id);
select pk.protect('users');

create table roles (
  tenant_id uuid not null default pk.tenant_id(),
  id uuid not null,
  name text not null,
  permissions text[] not null,
  built_in boolean not null default false,
  version bigint not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (tenant_id, id),
  foreign key (tenant_id) references tenants (tenant_id) on delete cascade,
  constraint roles_name_key unique (tenant_id, name));
select pk.protect('roles');

create table user_roles (
  tenant_id uuid not null default pk.tenant_id(),
  user_id uuid not null,
  role_id uuid not null,
  primary key (tenant_id, user_id, role_id),
  foreign key (tenant_id, user_id) references users (tenant_id, id) on delete cascade,
  constraint user_roles_role_fkey foreign key (tenant_id, role_id) references roles (tenant_id, id));
create index user_roles_role on user_roles (tenant_id, role_id);
select pk.protect('user_roles');

create table sessions (
  tenant_id uuid not null default pk.tenant_id(),
  id uuid not null,
  user_id uuid not null,
  kind text not null check (kind in ('bearer', 'cookie')),
  secret_hash bytea,
  address text not null,
  user_agent text not null default '',
  last_used_at timestamptz not null default now(),
  expires_at timestamptz not null,
  revoked_at timestamptz,
  revoked_why text,
  version bigint not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (tenant_id, id),
  foreign key (tenant_id, user_id) references users (tenant_id, id) on delete cascade);
create index sessions_user on sessions (tenant_id, user_id, created_at);
create index sessions_expiry on sessions (tenant_id, expires_at);
select pk.protect('sessions');

-- One row for each refresh token ever given in a living session: the hash alone, never the token.
create table refresh_tokens (
  tenant_id uuid not null default pk.tenant_id(),
  id uuid not null,
  session_id uuid not null,
  token_hash bytea not null,
  used_at timestamptz,
  expires_at timestamptz not null,
  created_at timestamptz not null default now(),
  primary key (tenant_id, id),
  foreign key (tenant_id, session_id) references sessions (tenant_id, id) on delete cascade,
  constraint refresh_tokens_hash_key unique (tenant_id, token_hash));
create index refresh_tokens_session on refresh_tokens (tenant_id, session_id);
select pk.protect('refresh_tokens');

create table api_keys (
  tenant_id uuid not null default pk.tenant_id(),
  id uuid not null,
  name text not null,
  user_id uuid not null,
  permissions text[] not null,
  secret_hash bytea not null,
  expires_at timestamptz,
  parent_id uuid, -- the key that made it, and that takes it along when it is revoked
  last_used_at timestamptz,
  version bigint not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (tenant_id, id),
  foreign key (tenant_id, user_id) references users (tenant_id, id) on delete cascade,
  foreign key (tenant_id, parent_id) references api_keys (tenant_id, id) on delete cascade);
create index api_keys_user on api_keys (tenant_id, user_id);
create index api_keys_parent on api_keys (tenant_id, parent_id) where parent_id is not null;
select pk.protect('api_keys');

create table invitations (
  tenant_id uuid not null default pk.tenant_id(),
  id uuid not null,
  email text not null,
  roles text[] not null,
  token_hash bytea not null,
  invited_by uuid not null,
  expires_at timestamptz not null,
  accepted_at timestamptz,
  version bigint not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (tenant_id, id),
  foreign key (tenant_id) references tenants (tenant_id) on delete cascade);
select pk.protect('invitations');

-- Invitations of the operators to sign up, rows of the tenant `platform`; used while sign-up is by invitation.
create table signup_invitations (
  tenant_id uuid not null default pk.tenant_id(),
  id uuid not null,
  token_hash bytea not null,
  invited_by uuid not null,
  expires_at timestamptz not null,
  used_at timestamptz,
  used_for uuid,
  created_at timestamptz not null default now(),
  primary key (tenant_id, id));
select pk.protect('signup_invitations');

-- The keys that sign access tokens, rows of the tenant `platform`; their private parts are in the vault. A key is `next`
-- until signs_from, then `current` until another one signs, then `previous` until withdrawn_at.
create table signing_keys (
  tenant_id uuid not null default pk.tenant_id(),
  kid text not null,
  public_point bytea not null check (length(public_point) = 65),
  signs_from timestamptz not null,
  withdrawn_at timestamptz,
  created_at timestamptz not null default now(),
  primary key (tenant_id, kid));
select pk.protect('signing_keys');

-- When each recurring task last ran, rows of the tenant `platform`: whoever moves `ran_at` on runs it.
create table chores (
  tenant_id uuid not null default pk.tenant_id(),
  name text not null,
  ran_at timestamptz not null,
  primary key (tenant_id, name));
select pk.protect('chores');

-- The only ways across tenants: each answers one narrow question and nothing else. They run as the schema's owner, whose
-- own policy lets it see every row; the plugin's role may only execute them, in transactions that the kernel opened for it.
create function tenant_by_slug(wanted text) returns table (tenant_id uuid, status text)
  language sql stable security definer set search_path = iam, pg_temp
  as $$ select t.tenant_id, t.status from iam.tenants t where t.slug = wanted and pk.entered() $$;

create function tenants_to_announce(age_s integer, at_most integer) returns setof uuid
  language sql stable security definer set search_path = iam, pg_temp
  as $$ select t.tenant_id from iam.tenants t
    where t.announced_at is null and t.created_at <= now() - make_interval(secs => age_s) and pk.entered()
    order by t.created_at limit at_most $$;
create index tenants_unannounced on tenants (created_at) where announced_at is null;

create function tenants_after(place uuid, at_most integer) returns setof uuid
  language sql stable security definer set search_path = iam, pg_temp
  as $$ select t.tenant_id from iam.tenants t where (place is null or t.tenant_id > place) and pk.entered()
    order by t.tenant_id limit at_most $$;

-- down
drop function tenants_after(uuid, integer);
drop function tenants_to_announce(integer, integer);
drop function tenant_by_slug(text);
drop table chores, signing_keys, signup_invitations, invitations, api_keys, refresh_tokens, sessions, user_roles, roles, users, tenants;

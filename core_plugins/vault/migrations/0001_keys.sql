-- phase: expand
-- up
-- Data keys, each wrapped by the key-encryption key `kek_id` together with its tenant, id and version.
create table data_keys (
  tenant_id uuid not null default pk.tenant_id(),
  id uuid not null,
  version integer not null check (version > 0),
  kek_id text not null,
  wrapped bytea not null check (length(wrapped) between 40 and 4096),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (tenant_id, id),
  constraint data_keys_version_key unique (tenant_id, version));
create index data_keys_kek on data_keys (kek_id);
select pk.protect('data_keys');

-- Tenants whose keys were destroyed for good: no new one is ever made for them.
create table destroyed (
  tenant_id uuid not null default pk.tenant_id(),
  created_at timestamptz not null default now(),
  primary key (tenant_id));
select pk.protect('destroyed');

-- Named secrets, sealed under the tenant's data key.
create table secrets (
  tenant_id uuid not null default pk.tenant_id(),
  plugin text not null,
  name text not null,
  version integer not null check (version > 0),
  sealed bytea not null,
  created_at timestamptz not null default now(),
  primary key (tenant_id, plugin, name, version));
select pk.protect('secrets');

-- The only ways across tenants, for the kernel's own transactions: which key-encryption keys are needed, and whose data
-- keys a rotation has still to wrap anew.
create function kek_usage() returns table (kek_id text, data_keys bigint)
  language sql stable security definer set search_path = vault, pg_temp
  as $$ select k.kek_id, count(*) from vault.data_keys k where pk.entered() group by k.kek_id $$;

create function tenants_to_rewrap(current_kek text, at_most integer) returns setof uuid
  language sql stable security definer set search_path = vault, pg_temp
  as $$ select distinct k.tenant_id from vault.data_keys k where pk.entered() and k.kek_id <> current_kek
        order by k.tenant_id limit at_most $$;

-- down
drop function tenants_to_rewrap(text, integer);
drop function kek_usage();
drop table secrets, destroyed, data_keys;

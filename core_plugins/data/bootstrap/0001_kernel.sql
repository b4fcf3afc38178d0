-- phase: expand
-- up
-- The kernel's own part of the database: what the tenant wall stands on. Everything here belongs to the kernel's
-- administrator; plugins may call `pk.tenant_id()`, `pk.entered()` and, in migrations, `pk.protect()`.

-- Keys that sign the tenant context, as the padded blocks of HMAC (RFC 2104): sha256() is the only hash that every server
-- has. Workers sign with the newest; every key that is still here is accepted, so that keys can be rotated.
create table pk.context_key (
  id text primary key check (id ~ '^[0-9]{6}$'),
  inner_pad bytea not null check (length(inner_pad) = 64),
  outer_pad bytea not null check (length(outer_pad) = 64),
  made_at timestamptz not null default now());
revoke all on pk.context_key from public;

-- Counts the transactions of a session. Each session draws a block of its own, so the counter needs no shared lock and no
-- write; within the block the worker knows each value beforehand and signs it, which makes a context good for one
-- transaction of one session. Nobody but the kernel's own statements below can move the counter, and nothing sets it back.
create sequence pk.turn as bigint cache 262144;
revoke all on sequence pk.turn from public;

-- Draws the block; once in each session, by whoever opens it.
create function pk.open_session() returns bigint
  language plpgsql volatile security definer set search_path = pg_catalog
  as $$
begin
  perform currval('pk.turn');
  raise exception 'the session is open already' using errcode = '42501';
exception when object_not_in_prerequisite_state then
  return nextval('pk.turn');
end $$;

-- CALL is the cheapest statement that can move the counter on: it needs no plan and answers no row. Plugins' statements
-- cannot be CALL (`model.check_statement`), and what is injected into a statement cannot call a procedure.
create procedure pk.take_turn(sequence regclass) language internal security definer as 'nextval_oid';

-- The tenant of this transaction, from the signed context that the kernel has set; error 42501 for any other.
-- `pk.ctx` = mac (64 hex digits), key id (6 digits), turn (19), expiry in seconds (10), tenant (32 hex digits), role.
-- The search path is pinned so that the plan is kept; both sides are hashed once more, so that the time which a comparison
-- takes tells nothing about the mac.
create function pk.tenant_id() returns uuid
  language plpgsql stable parallel restricted security definer set search_path = pg_catalog
  as $$
declare
  context text := current_setting('pk.ctx', true);
  tenant uuid;
begin
  select substr(context, 100, 32)::uuid into tenant from pk.context_key k
   where k.id = substr(context, 65, 6)
     and sha256(decode(left(context, 64), 'hex'))
       = sha256(sha256(k.outer_pad || sha256(k.inner_pad || convert_to(substr(context, 65), 'UTF8'))))
     and substr(context, 71, 19)::bigint = currval('pk.turn')
     and to_timestamp(substr(context, 90, 10)::bigint) >= now()
     and substr(context, 132) = current_setting('role');
  if tenant is null or tenant = '00000000-0000-0000-0000-000000000000' then
    perform pk.refuse_context(context);
  end if;
  return tenant;
end $$;

-- Tells why a context does not hold. Does not return.
create function pk.refuse_context(context text) returns void
  language plpgsql stable security definer set search_path = pg_catalog
  as $$
declare
  reason text := 'it is forged, or its key was withdrawn';
begin
  if coalesce(context, '') = '' then
    reason := 'there is none in this transaction';
  elsif exists (select from pk.context_key k where k.id = substr(context, 65, 6) and left(context, 64)
      = encode(sha256(k.outer_pad || sha256(k.inner_pad || convert_to(substr(context, 65), 'UTF8'))), 'hex')) then
    reason := case
      when substr(context, 71, 19)::bigint <> currval('pk.turn') then 'it belongs to another transaction'
      when to_timestamp(substr(context, 90, 10)::bigint) < now() then 'it has expired'
      when substr(context, 132) <> current_setting('role') then 'it was given to another role'
      else 'it has no tenant' end;
  end if;
  raise exception 'the tenant context does not hold: %', reason using errcode = '42501';
end $$;
revoke all on function pk.refuse_context(text) from public;

-- True in a transaction that the kernel opened for the role that is set now, with a tenant or without; error 42501 in any
-- other. For `security definer` functions that look across tenants: nobody can use them by setting the role alone.
create function pk.entered() returns boolean
  language plpgsql stable parallel restricted security definer set search_path = pg_catalog
  as $$
declare
  context text := current_setting('pk.ctx', true);
begin
  if exists (select from pk.context_key k
   where k.id = substr(context, 65, 6)
     and sha256(decode(left(context, 64), 'hex'))
       = sha256(sha256(k.outer_pad || sha256(k.inner_pad || convert_to(substr(context, 65), 'UTF8'))))
     and substr(context, 71, 19)::bigint = currval('pk.turn')
     and to_timestamp(substr(context, 90, 10)::bigint) >= now()
     and substr(context, 132) = current_setting('role')) then
    return true;
  end if;
  perform pk.refuse_context(context);
  return false;
end $$;

-- Put a table behind the tenant wall and give it to the plugin's role. Called in migrations, as the schema's owner.
create function pk.protect(target regclass) returns void
  language plpgsql set search_path = pg_catalog
  as $$
declare
  plugin name;
  keeper name;
begin
  select n.nspname, pg_get_userbyid(c.relowner) into strict plugin, keeper
    from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = target;
  execute format('alter table %s enable row level security', target);
  execute format('alter table %s force row level security', target);
  execute format('drop policy if exists tenant on %s', target);
  execute format('drop policy if exists owner on %s', target);
  -- A single equality, so that it is an index condition on every key that begins with tenant_id.
  execute format('create policy tenant on %s to %I using (tenant_id = (select pk.tenant_id()))'
    ' with check (tenant_id = (select pk.tenant_id()))', target, plugin);
  -- Migrations fill in old rows, narrow functions look across: both run as the owner, whom nobody else can become.
  execute format('create policy owner on %s to %I using (true) with check (true)', target, keeper);
  execute format('grant select, insert, update, delete on %s to %I', target, plugin);
end $$;
revoke all on function pk.protect(regclass) from public;

-- down
drop schema pk cascade;

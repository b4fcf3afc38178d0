-- phase: expand
-- up
-- What was told of in a transaction waits here, written with it, until the event log has it. Nobody but these functions
-- reads or writes the tables: who tells, and in which tenant, is taken from the signed context, never from arguments.

-- The last number of each entity's events. Its row is the lock of the entity: the events of one are numbered, and get their
-- place in the outbox, in the order in which their transactions commit.
create table pk.entity (
  tenant_id uuid not null,
  area text collate "C" not null,
  subject text collate "C" not null,
  sequence bigint not null,
  primary key (tenant_id, area, subject)) with (fillfactor = 80);
revoke all on pk.entity from public;

create table pk.outbox (
  position bigint generated always as identity primary key,
  tenant_id uuid not null,
  id uuid not null,
  source text collate "C" not null,
  type text collate "C" not null,
  subject text collate "C" not null,
  time timestamptz not null default clock_timestamp(),
  sequence bigint not null,
  data json not null,
  actor text not null,
  traceparent text not null,
  topic text collate "C" not null,
  partition smallint not null) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
revoke all on pk.outbox from public;

-- Which of the twelve partitions the events of an entity take: the first four bytes of SHA-256, so that every server and
-- every driver agrees.
create function pk.partition_of(subject text) returns smallint
  language sql immutable strict parallel safe
  return (('x' || left(encode(sha256(convert_to(subject, 'UTF8')), 'hex'), 8))::bit(32)::bigint % 12)::smallint;

create function pk.topic_of(area text) returns text
  language sql immutable parallel safe  -- not strict, so that it is inlined
  return case when area = 'iam' then 'platform.auth.events'
    when area in ('money', 'data', 'files', 'audit', 'billing') then 'platform.' || area || '.events'
    else 'platform.module.events' end;

-- Write down what a transaction tells, in order; once, just before its commit. `types` are relative to the plugin's area.
-- Entities are locked in the order of their names, so two transactions never wait for one another in a circle.
create function pk.emit(ids uuid[], types text[], subjects text[], payloads text[], actor text, traceparent text)
  returns void language plpgsql volatile security definer set search_path = pg_catalog
  as $$
declare
  tenant constant uuid := pk.tenant_id();
  plugin constant text := current_setting('role');
  own_area constant text := case when starts_with(plugin, 'x_') then replace(substr(plugin, 3), '_', '.') else plugin end;
  source constant text := '/plugins/' || case when starts_with(plugin, 'x_') then own_area else 'kernel.' || own_area end;
begin
  with told as (
    select t.*, row_number() over (partition by t.subject order by t.nr) as nth
      from unnest(ids, types, subjects, payloads) with ordinality as t (id, type, subject, payload, nr)),
  counted as (select t.subject, count(*) as events from told t group by t.subject),
  numbered as (
    insert into pk.entity as e (tenant_id, area, subject, sequence)
      select tenant, own_area, c.subject, c.events from counted c order by c.subject collate "C"
    on conflict on constraint entity_pkey do update set sequence = e.sequence + excluded.sequence
    returning e.subject, e.sequence as last)
  insert into pk.outbox (tenant_id, id, source, type, subject, sequence, data, actor, traceparent, topic, partition)
    select tenant, t.id, source, own_area || '.' || t.type, t.subject, n.last - c.events + t.nth, t.payload::json, actor,
      traceparent, pk.topic_of(own_area), pk.partition_of(t.subject)
    from told t join counted c using (subject) join numbered n using (subject) order by t.nr;
end $$;

-- The same for one event, as usual, and at half the price.
create function pk.emit_one(id uuid, type text, subject text, payload json, actor text, traceparent text) returns void
  language plpgsql volatile security definer set search_path = pg_catalog
  as $$
declare
  tenant constant uuid := pk.tenant_id();
  plugin constant text := current_setting('role');
  own_area constant text := case when starts_with(plugin, 'x_') then replace(substr(plugin, 3), '_', '.') else plugin end;
  number bigint;
begin
  insert into pk.entity as e (tenant_id, area, subject, sequence) values (tenant, own_area, emit_one.subject, 1)
    on conflict on constraint entity_pkey do update set sequence = e.sequence + 1 returning e.sequence into number;
  insert into pk.outbox (tenant_id, id, source, type, subject, sequence, data, actor, traceparent, topic, partition)
    values (tenant, emit_one.id, '/plugins/' || case when starts_with(plugin, 'x_') then own_area else 'kernel.' || own_area end,
      own_area || '.' || emit_one.type, emit_one.subject, number, payload, emit_one.actor, emit_one.traceparent,
      pk.topic_of(own_area), pk.partition_of(emit_one.subject));
end $$;

-- Take the oldest events out; for the event log alone, which writes them down in the same transaction.
create function pk.take_outbox(most integer) returns setof pk.outbox
  language plpgsql volatile security definer set search_path = pg_catalog
  as $$
begin
  if not pk.entered() or current_setting('role') <> 'eventbus' then
    raise exception 'the outbox is emptied by kernel.eventbus alone' using errcode = '42501';
  end if;
  return query with taken as (
    delete from pk.outbox o where o.position <= (
      select max(w.position) from (select position from pk.outbox order by position limit most) as w)
    returning o.*) select t.* from taken t order by t.position;
end $$;

-- How many wait (100000 at most are counted), and since when; for metrics.
create function pk.outbox_backlog(out events bigint, out oldest timestamptz)
  language plpgsql stable security definer set search_path = pg_catalog
  as $$
begin
  if not pk.entered() then return; end if;
  select count(*) into events from (select from pk.outbox limit 100000) o;
  select o.time into oldest from pk.outbox o order by o.position limit 1;
end $$;

-- Leases: who does what only one may do at a time. The epoch grows with each new holder; a transaction that checks it with
-- `pk.holds` commits before anybody else can take the lease, or not at all. All times are the database's own.
create table pk.lease (
  name text collate "C" primary key,
  owner text collate "C" not null,
  epoch bigint not null,
  expires_at timestamptz not null) with (fillfactor = 50);
revoke all on pk.lease from public;

create function pk.own_lease(name text) returns boolean
  language plpgsql stable security definer set search_path = pg_catalog
  as $$
begin
  if not pk.entered() or not starts_with(name, current_setting('role') || ':') then
    raise exception 'the lease % is not this plugin''s', name using errcode = '42501';
  end if;
  return true;
end $$;
revoke all on function pk.own_lease(text) from public;

-- Take `most` of these leases that are free, expired or the owner's already; those taken, with their epochs, and whether the
-- holder before had released it. One that a transaction is checking at this moment is passed over. An owner who takes his own
-- again gets a new epoch.
create function pk.take_leases(names text[], new_owner text, seconds double precision, most integer)
  returns table (name text, epoch bigint, released boolean) language plpgsql volatile security definer set search_path = pg_catalog
  as $$
#variable_conflict use_column
declare
  until constant timestamptz := clock_timestamp() + make_interval(secs => seconds);
begin
  perform pk.own_lease(n) from unnest(names) as n;
  insert into pk.lease (name, owner, epoch, expires_at)
    select n, '', 0, '-infinity' from unnest(names) as n order by n on conflict do nothing;
  return query with free as (
    select l.name, l.owner = '' as released from pk.lease l where l.name = any (names) and (l.expires_at < clock_timestamp() or l.owner = new_owner)
    order by (l.owner = new_owner) desc, l.name limit most for update skip locked)
  update pk.lease l set owner = new_owner, epoch = l.epoch + 1, expires_at = until
    from free where l.name = free.name returning l.name, l.epoch, free.released;
end $$;

-- Hold on to leases for so many seconds more; the names of those that are still the owner's.
create function pk.renew_leases(names text[], epochs bigint[], seconds double precision)
  returns setof text language plpgsql volatile security definer set search_path = pg_catalog
  as $$
begin
  perform pk.own_lease(n) from unnest(names) as n;
  return query update pk.lease l set expires_at = clock_timestamp() + make_interval(secs => seconds)
    from unnest(names, epochs) as mine (name, epoch)
    where l.name = mine.name and l.epoch = mine.epoch and l.expires_at > clock_timestamp() returning l.name;
end $$;

create function pk.release_leases(names text[], epochs bigint[]) returns void
  language plpgsql volatile security definer set search_path = pg_catalog
  as $$
begin
  perform pk.own_lease(n) from unnest(names) as n;
  update pk.lease l set owner = '', expires_at = '-infinity'
    from unnest(names, epochs) as mine (name, epoch) where l.name = mine.name and l.epoch = mine.epoch;
end $$;

-- Take leases away from whoever holds them.
create function pk.fence_leases(names text[]) returns void
  language plpgsql volatile security definer set search_path = pg_catalog
  as $$
begin
  perform pk.own_lease(n) from unnest(names) as n;
  perform from pk.lease l where l.name = any (names) order by l.name for update;  -- waits for those that check them
  update pk.lease l set owner = '', epoch = l.epoch + 1, expires_at = '-infinity' where l.name = any (names);
end $$;

-- Whether a lease is still held in this epoch; if so nobody takes it before this transaction has ended.
create function pk.holds(lease text, held bigint) returns boolean
  language plpgsql volatile security definer set search_path = pg_catalog
  as $$
begin
  if not pk.entered() then return false; end if;
  perform from pk.lease l where l.name = lease and l.epoch = held and l.expires_at > clock_timestamp() for key share;
  return found;
end $$;

-- What each consumer has done: an event that stands here has had its effect, which was written in the same transaction.
create table pk.inbox (
  plugin text collate "C" not null,
  consumer text collate "C" not null,
  tenant_id uuid not null,
  id uuid not null,
  at date not null default current_date,
  primary key (tenant_id, plugin, consumer, id));
create index inbox_at on pk.inbox (at);
revoke all on pk.inbox from public;

-- Begin to handle an event: `new`, or `seen` when that has been done, or `fenced` when the lease is another's by now.
create function pk.enter_inbox(consumer_name text, event_id uuid, lease text, held bigint) returns text
  language plpgsql volatile security definer set search_path = pg_catalog
  as $$
declare
  tenant constant uuid := pk.tenant_id();
begin
  if not pk.holds(lease, held) then return 'fenced'; end if;
  insert into pk.inbox (plugin, consumer, tenant_id, id) values (current_setting('role'), consumer_name, tenant, event_id)
    on conflict do nothing;
  return case when found then 'new' else 'seen' end;
end $$;

-- Whether an event has had its effect.
create function pk.has_handled(consumer_name text, event_id uuid) returns boolean
  language plpgsql stable security definer set search_path = pg_catalog
  as $$
declare
  tenant constant uuid := pk.tenant_id();
begin
  return exists (select from pk.inbox i where i.tenant_id = tenant and i.plugin = current_setting('role')
    and i.consumer = consumer_name and i.id = event_id);
end $$;

-- Forget what can be told again no more; how many rows went.
create function pk.sweep_inbox(keep_days integer) returns bigint
  language plpgsql volatile security definer set search_path = pg_catalog
  as $$
declare
  gone bigint;
begin
  if not pk.entered() or current_setting('role') <> 'eventbus' then
    raise exception 'the inbox is swept by kernel.eventbus alone' using errcode = '42501';
  end if;
  delete from pk.inbox where at < current_date - keep_days;
  get diagnostics gone = row_count;
  return gone;
end $$;

-- Forget all that the transaction's tenant ever told or heard; when it is erased.
create function pk.forget_told() returns void
  language plpgsql volatile security definer set search_path = pg_catalog
  as $$
declare
  tenant constant uuid := pk.tenant_id();
begin
  if current_setting('role') <> 'eventbus' then
    raise exception 'what was told is forgotten by kernel.eventbus alone' using errcode = '42501';
  end if;
  delete from pk.outbox where tenant_id = tenant;
  delete from pk.inbox where tenant_id = tenant;
  delete from pk.entity where tenant_id = tenant;
end $$;

-- down
drop function pk.forget_told(), pk.sweep_inbox(integer), pk.has_handled(text, uuid), pk.enter_inbox(text, uuid, text, bigint), pk.holds(text, bigint),
  pk.fence_leases(text[]), pk.release_leases(text[], bigint[]), pk.renew_leases(text[], bigint[], double precision),
  pk.take_leases(text[], text, double precision, integer), pk.own_lease(text), pk.outbox_backlog(),
  pk.take_outbox(integer), pk.emit_one(uuid, text, text, json, text, text), pk.emit(uuid[], text[], text[], text[], text, text), pk.topic_of(text), pk.partition_of(text);
drop table pk.inbox, pk.lease, pk.outbox, pk.entity;

-- phase: expand
-- up
-- What operators do with the log: measure who is behind, read it, put a consumer back, let a plugin be forgotten.

-- How far consumers are behind, for how many seconds, and how many letters they have (`most` at most are counted).
create function measure_consumers(most integer)
  returns table (consumer text, topic text, behind bigint, oldest_s double precision, letters bigint)
  language plpgsql stable security definer set search_path = eventbus, pg_catalog
  as $$
#variable_conflict use_column
begin
  if not pk.entered() then return; end if;
  return query select l.consumer, l.topic, l.behind,
      coalesce(extract(epoch from clock_timestamp() - l.oldest)::double precision, 0),
      (select count(*) from (select from dead_letters d where d.consumer = l.consumer and d.topic = l.topic limit most) c)
    from lags() l;
end $$;

-- The events of all tenants, or of one, in so many positions from `first` on.
create function read_log(first bigint, positions bigint, of_type text, of_subject text, of_tenant uuid, most integer)
  returns setof log language plpgsql stable security definer set search_path = eventbus, pg_catalog
  as $$
begin
  if not pk.entered() then return; end if;
  return query select * from log l where l.position >= first and l.position < first + positions
    and (of_type is null or l.type = of_type) and (of_subject is null or l.subject = of_subject)
    and (of_tenant is null or l.tenant_id = of_tenant) order by l.position limit most;
end $$;

-- The position from which on everything was appended since a moment. Halving finds it, since positions grow with time.
create function position_since(moment timestamptz) returns bigint
  language plpgsql stable security definer set search_path = eventbus, pg_catalog
  as $$
declare
  low bigint := oldest_position();
  high bigint := tip_position() + 1;
  middle bigint;
  seen record;
begin
  if not pk.entered() then return null; end if;
  while low < high loop
    middle := (low + high) / 2;
    select l.position, l.appended_at into seen from log l where l.position >= middle order by l.position limit 1;
    if seen.position is null or seen.appended_at >= moment then
      high := middle;
    else
      low := seen.position + 1;
    end if;
  end loop;
  return low;
end $$;

-- Let a consumer begin anew in one partition, with the event of an offset or the first one after it that is still there. It moves
-- nothing when the consumer has not come as far: what lies between would be left out. `next` is how far it had come, null when
-- it does not read the partition.
create function rewind_to(consumer_name text, of_topic text, of_partition integer, to_offset bigint, out next bigint,
    out moved boolean)
  language plpgsql volatile security definer set search_path = eventbus, pg_catalog
  as $$
begin
  moved := false;
  if not pk.entered() then return; end if;
  select p.next_offset into next from progress p
    where p.consumer = consumer_name and p.topic = of_topic and p.partition = of_partition;
  if next is null or to_offset > next then return; end if;
  perform pk.fence_leases(array[lease_of(consumer_name, of_topic, of_partition::smallint)]);
  update progress p set next_offset = least(p.next_offset, to_offset)  -- another may have put it further back meanwhile
    where p.consumer = consumer_name and p.topic = of_topic and p.partition = of_partition;
  moved := true;
end $$;

-- A consumer's name has one word behind its plugin's area: `acme.crm.hear` is of `acme.crm`, `acme.crm.mail.hear` is not.
create function is_consumer_of(consumer text, area text) returns boolean
  language sql immutable strict
  return starts_with(consumer, area || '.') and strpos(substr(consumer, length(area) + 2), '.') = 0;

-- Forget the consumers of a plugin that leaves with its data, `most` letters at once; how many rows went. To be called until it
-- is none.
create function forget_consumers(of_area text, most integer) returns bigint
  language plpgsql volatile security definer set search_path = eventbus, pg_catalog
  as $$
declare
  went bigint;
begin
  if not pk.entered() then return 0; end if;
  delete from dead_letters where ctid = any (array(
    select d.ctid from dead_letters d where is_consumer_of(d.consumer, of_area) limit most));
  get diagnostics went = row_count;
  if went = 0 then
    delete from members m where is_consumer_of(m.consumer, of_area);
    delete from progress p where is_consumer_of(p.consumer, of_area);
  end if;
  return went;
end $$;

-- Likewise its schedules, `most` firings at once.
create function forget_schedules(of_plugin text, most integer) returns bigint
  language plpgsql volatile security definer set search_path = eventbus, pg_catalog
  as $$
declare
  went bigint;
begin
  if not pk.entered() then return 0; end if;
  delete from firings where ctid = any (array(select f.ctid from firings f where f.plugin = of_plugin limit most));
  get diagnostics went = row_count;
  if went = 0 then delete from schedules s where s.plugin = of_plugin; end if;
  return went;
end $$;

-- down
drop function forget_schedules(text, integer), forget_consumers(text, integer), is_consumer_of(text, text),
  rewind_to(text, text, integer, bigint), position_since(timestamptz),
  read_log(bigint, bigint, text, text, uuid, integer), measure_consumers(integer);

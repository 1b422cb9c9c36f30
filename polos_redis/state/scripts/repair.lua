#!lua flags=allow-oom
-- repair: put right what half of a script has left, in one page of rows. A server whose log was cut within a script may
-- have loaded its first writes only. An execution that nothing would continue becomes runnable again, and goes on from
-- its journal; rows of what is not there are removed.
-- KEYS  1 the partition's prefix
-- ARGV  1 which rows: 'queue' (the entries of a queue), 'suspensions' (the inbox), or 'queued' or 'waiting' (an index
--       of this status)  2 the queue, or the workflow of the index, else ''  3 cursor, '0' for the first page
--       4 how many rows
-- Returns {the next cursor, '0' after the last page, rows looked at, flat list: execution, what was wrong}.
-- #include deletion
local P, kind, name, cursor, limit = KEYS[1], unpack(ARGV)
local HOLDERS <const> = 20 -- of a semaphore, looked at for each execution that waits for a slot
local looked, repaired = 0, {}

local function note(id, what)
  append(repaired, id, what)
end

-- was_delivered: whether the id of a stream's entry is not after that of the last one delivered.
local function was_delivered(entry, last)
  local ms, number = string.match(entry, '^(%d+)-(%d+)$')
  local last_ms, last_number = string.match(last, '^(%d+)-(%d+)$')
  ms, last_ms = tonumber(ms), tonumber(last_ms)
  return ms < last_ms or (ms == last_ms and tonumber(number) <= tonumber(last_number))
end

-- stands: whether an entry is in its queue, and is to be delivered or pending for a consumer.
local function stands(queue, entry)
  local stream = queue_key(P, queue)
  if #redis.call('XRANGE', stream, entry, entry) == 0 then return false end
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    for i = 1, #group, 2 do
      if group[i] == 'last-delivered-id' and was_delivered(entry, group[i + 1]) then
        return #redis.call('XPENDING', stream, 'workers', entry, entry, 1) > 0
      end
    end
  end
  return true
end

-- check_holders: take slots of a semaphore from executions that don't want them.
local function check_holders(semaphore, most)
  local held = redis.call('HRANDFIELD', P .. 'slots:' .. semaphore, HOLDERS, 'WITHVALUES')
  local check = 'h' .. most .. ' ' .. semaphore
  for i = 1, #held, 2 do
    local id, version = held[i], held[i + 1]
    local status, relations = unpack(redis.call('HMGET', P .. 'exec:' .. id, 'status', 'relations'))
    if not status then -- it lives in another partition, or nowhere
      if not redis.call('ZSCORE', P .. 'errands', check) then note_errand(P, check) end
    elseif status ~= 'queued' or read_relations(relations).semaphore ~= semaphore
      or redis.call('ZSCORE', P .. 'timers', 'p' .. id) then
      release_slot(P, semaphore, most, id, tonumber(version))
      note(id, 'it held a slot without being runnable')
    end
  end
end

-- carried: what the new entry of an execution carries.
local function carried(id)
  local input, origin, started = unpack(redis.call('HMGET', P .. 'exec:' .. id, 'input', 'origin', 'started'))
  return inlined_payload(P, id, input, origin, started)
end

-- check_queued: a queued execution has an entry, starts later, or is to get a slot.
local function check_queued(id, entry, workflow, run, queue, relations)
  if entry then
    if stands(queue, entry) then return end
    take_off(P, queue, entry)
    redis.call('HDEL', P .. 'exec:' .. id, 'entry', 'owner')
    put_on(P, id, workflow, run, queue, carried(id))
    return note(id, 'its entry was gone')
  end
  if redis.call('ZSCORE', P .. 'timers', 'p' .. id) then return end
  local semaphore = relations.semaphore
  if semaphore and not relations.near then
    if not redis.call('ZSCORE', P .. 'errands', 'l' .. id) then note_errand(P, 'l' .. id) end
    return
  end
  if semaphore and redis.call('ZSCORE', P .. 'waiters:' .. semaphore, id) then
    return check_holders(semaphore, relations.limit)
  end
  redis.call('HDEL', P .. 'exec:' .. id, 'owner')
  if semaphore and redis.call('HEXISTS', P .. 'slots:' .. semaphore, id) == 1 then
    admit(P, id)
  else
    offer(P, id, workflow, run, queue, relations, carried(id))
  end
  note(id, 'it was queued without an entry')
end

-- add_row: add the row of an open wait, if it is missing.
local function add_row(id, key, set, due, member)
  if redis.call('ZADD', P .. key, 'NX', due, member) == 1 then note(id, 'it was missing among the ' .. set) end
end

-- is_open: whether a wait is open; its rows are added where they are missing.
local function is_open(id, key)
  local record = record_of(P, id, key)
  local of, status, member = record[KIND], record[STATUS], id .. ' ' .. key
  if status == 'backoff' then
    add_row(id, 'timers', 'timers', now, 'b' .. member)
    return true
  end
  if status ~= 'open' or of == 'race' then return false end
  if of == 'suspend' then add_row(id, 'suspensions', 'suspensions', record[OPENED] * 1000, member) end
  if (of == 'suspend' or of == 'wait') and record[DEADLINE] > 0 then
    add_row(id, 'timers', 'timers', record[DEADLINE], (of == 'wait' and 'w' or 's') .. member)
  end
  return true
end

-- check_waiting: a waiting execution has an open wait.
local function check_waiting(id, entry, workflow, created, run, queue, relations, waits)
  local open = false
  for _, key in ipairs(read_waits(waits)) do
    looked = looked + 1
    if is_open(id, key) then open = true end
  end
  if entry then
    take_off(P, queue, entry)
    redis.call('HDEL', P .. 'exec:' .. id, 'entry', 'owner', 'attempts', 'progress', 'held_back')
    note(id, 'it was waiting with an entry')
  end
  if open then return end
  reindex(P, id, workflow, created, 'waiting', 'queued')
  offer(P, id, workflow, run, queue, relations, carried(id))
  note(id, 'it was waiting for nothing')
end

-- check_execution: look at the execution of a row in an index.
local function check_execution(id)
  local status, entry, workflow, run, queue, packed, created, waits, retention = unpack(redis.call('HMGET',
    P .. 'exec:' .. id, 'status', 'entry', 'workflow', 'run', 'queue', 'relations', 'created', 'waits',
    'retention'))
  if not status then
    redis.call('ZREM', index_of(P, kind, name), id)
    return note(id, 'it was listed and is not there')
  end
  if status ~= kind then
    redis.call('ZREM', index_of(P, kind, name), id)
    redis.call('ZADD', index_of(P, status, name), created, id)
    note(id, 'it was listed as ' .. kind)
  end
  local relations = read_relations(packed)
  if status == 'queued' then
    check_queued(id, entry, workflow, run, queue, relations)
  elseif status == 'waiting' then
    check_waiting(id, entry, workflow, created, run, queue, relations, waits)
  elseif status ~= kind and not is_live(status) then
    redis.call('ZADD', P .. 'expiry', 'NX', now + retention, id)
  end
end

-- check_entry: an entry is the live one of a queued execution.
local function check_entry(entry, flat)
  local id = ''
  for i = 1, #flat, 2 do if flat[i] == 'id' then id = flat[i + 1] end end
  local status, live = unpack(redis.call('HMGET', P .. 'exec:' .. id, 'status', 'entry'))
  if status == 'queued' and live == entry then return end
  take_off(P, name, entry)
  note(id, 'an entry was not its own')
end

-- check_row: a row of the inbox is of an open suspension.
local function check_row(member)
  local id, key = string.match(member, '^(%S+) (.*)$')
  local record = id and record_of(P, id, key) or {}
  if record[KIND] == 'suspend' and record[STATUS] == 'open' then return end
  redis.call('ZREM', P .. 'suspensions', member)
  note(id or member, 'a suspension was listed that is not open')
end

if kind == 'queue' then
  local found = redis.call('XRANGE', queue_key(P, name), cursor == '0' and '-' or '(' .. cursor, '+', 'COUNT', limit)
  for _, one in ipairs(found) do check_entry(unpack(one)) end
  looked = #found
  cursor = looked == tonumber(limit) and found[looked][1] or '0'
else
  local key = kind == 'suspensions' and P .. kind or index_of(P, kind, name)
  local after, found = unpack(redis.call('ZSCAN', key, cursor, 'COUNT', limit))
  for i = 1, #found, 2 do
    looked = looked + 1
    if kind == 'suspensions' then check_row(found[i]) else check_execution(found[i]) end
  end
  cursor = after
end
return {cursor, looked, repaired}

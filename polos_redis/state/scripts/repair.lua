#!lua flags=allow-oom
-- repair: put right what half of a script has left, in one page of rows. A server whose log was cut within a script may
-- have loaded its first writes only. An execution that nothing would continue becomes runnable again, and goes on from
-- its journal; rows of what is not there are removed.
-- KEYS  1 the partition's prefix
-- ARGV  1 which rows: 'queue' (the entries of a queue), 'suspensions' (the inbox), or an index: 'queued', 'waiting' or
--       'stuck'  2 the queue, or the name of the index, else ''  3 cursor, '0' for the first page
--       4 how many rows
-- Returns {the next cursor, '0' after the last page, rows looked at, flat list: execution, what was wrong}.
-- #include cancelling
-- #include continuing
-- #include reserved
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

-- drop_places: a queued execution has an entry: it is not to get another one.
local function drop_places(id, name, queue, relations)
  local places = redis.call('ZREM', index_of(P, 'queued', name), id) + redis.call('ZREM', P .. 'timers', 'p' .. id)
  if is_reserved(queue) then places = places + redis.call('ZREM', index_of(P, 'unserved', queue), id) end
  if relations.semaphore then places = places + redis.call('ZREM', P .. 'waiters:' .. relations.semaphore, id) end
  if places > 0 then note(id, 'it had an entry and was to get another one') end
end

-- check_queued: a queued execution has an entry, starts later, or is to get a slot.
local function check_queued(id, name, created, entry, workflow, run, queue, relations)
  if entry then
    if stands(queue, entry) then return drop_places(id, name, queue, relations) end
    list(P, 'queued', name, created, id)
    disown(P, id)
    redis.call('HDEL', P .. 'exec:' .. id, 'entry')
    take_off(P, queue, entry)
    put_on(P, id, workflow, run, queue, carried(id))
    unlist(P, 'queued', name, id)
    return note(id, 'its entry was gone')
  end
  list(P, 'queued', name, created, id)
  local starts = redis.call('ZSCORE', P .. 'timers', 'p' .. id)
  if starts == NEVER and list_unserved(P, id, queue, created) then note(id, 'it was not listed as unserved') end
  if starts then return end
  local semaphore = relations.semaphore
  if semaphore and not relations.near then
    if not redis.call('ZSCORE', P .. 'errands', 'l' .. id) then note_errand(P, 'l' .. id) end
    return
  end
  disown(P, id)
  if semaphore then
    if redis.call('ZSCORE', P .. 'waiters:' .. semaphore, id) then
      check_holders(semaphore, relations.limit)
      return move_up(P, semaphore, relations.limit)
    end
    release_slot(P, semaphore, relations.limit, id, relations.slot or 0)
  end
  offer_listed(P, id, name, created, workflow, run, queue, relations, carried(id))
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

-- check_waits: look at all waits of an execution. Returns whether one is open.
local function check_waits(id, waits)
  local open = false
  for _, key in ipairs(read_waits(waits)) do
    looked = looked + 1
    if is_open(id, key) then open = true end
  end
  return open
end

-- continue: make an execution runnable that waits for nothing.
local function continue(id, name, from, workflow, created, run, queue, relations)
  offer(P, id, name, created, workflow, run, queue, relations, carried(id))
  unlist(P, from, name, id)
  note(id, 'it was waiting for nothing')
end

-- recount: count the results of the children that a step waits for.
local function recount(parent, key)
  local record = record_of(P, parent, key)
  if record[KIND] ~= 'child' or record[STATUS] ~= 'open' then return end
  local left = record[CHILD_TOTAL]
  local flat = redis.call('HGETALL', P .. 'journal:' .. parent)
  for i = 1, #flat, 2 do
    local result = string.byte(flat[i]) == 255 and read_record(flat[i + 1]) or {}
    if result[RESULT_STEP] == key and result[RESULT_OPENED] == record[OPENED] then left = left - 1 end
  end
  if left == record[CHILD_LEFT] then return end
  record[CHILD_LEFT] = left
  if left == 0 then wake(P, parent, key, record, 'done') else rewrite(P, parent, key, record) end
end

-- complete: end an execution whose end was begun. Its finish event may come twice. Returns false when there is no
-- result, which a retry drops.
local function complete(id, status, from)
  local field = ({completed = 'output', failed = 'error', cancelled = 'cancelled_by'})[status]
  local value = redis.call('HGET', P .. 'exec:' .. id, field)
  if not value then return false end
  local e = redis.call('HMGET', P .. 'exec:' .. id, unpack(ENDING_FIELDS))
  local event, from_outside, relations = '', status == 'cancelled', read_relations(e[EXEC_RELATIONS])
  if status == 'failed' then
    local _, error_type, text = unpack(read_record(value))
    from_outside = error_type == 'WorkflowTimeoutError'
    event = finish_event(P, id, status, field, (error_type or '') .. ': ' .. (text or ''))
  elseif status == 'cancelled' then
    event = finish_event(P, id, status, field, value)
  end
  e[EXEC_STATUS] = from
  if kind ~= 'queue' then e[EXEC_ENTRY] = false end -- it is listed as one without an entry
  ending(P, id, e, status, field, value, event, {}, {})
  if from_outside and relations.kids then redis.call('ZADD', P .. 'timers', now, 'c' .. id) end
  if relations.parent then recount(relations.parent, relations.key) end
  note(id, 'its end was not complete')
  return true
end

-- check_execution: look at an execution that is found as one of this status: by its entry, or its row in an index.
local function check_execution(id, from)
  local exec = P .. 'exec:' .. id
  local status, entry, workflow, index, run, queue, packed, created, waits, stuck, version = unpack(redis.call('HMGET',
    exec, 'status', 'entry', 'workflow', 'index', 'run', 'queue', 'relations', 'created', 'waits', 'stuck', 'version'))
  if not status then
    unlist(P, from, name, id)
    unlist(P, 'all', name, id)
    drop_name(P, name)
    redis.call('UNLINK', P .. 'journal:' .. id) -- of a fork
    return note(id, 'it was listed and is not there')
  end
  if not is_live(status) then
    if complete(id, status, from) then return end
    redis.call('HSET', exec, 'status', 'queued') -- its retry was begun
    status = 'queued'
  end
  local continuing, retention = unpack(redis.call('HMGET', exec, 'continuing', 'retention'))
  if continuing then
    clear_runs(P, id, run, tonumber(retention), waits, workflow, version)
    waits, version = nil, nil
    note(id, 'its next run was begun')
  end
  local names = index or workflow
  if status ~= from then
    if status ~= 'queued' or not entry then list(P, status, names, created, id) end
    unlist(P, from, names, id)
    note(id, 'it was listed as ' .. from)
  end
  if version and list_version(P, id, workflow, version, created) then
    note(id, 'it was not listed by its version')
  end
  local relations, open = read_relations(packed), check_waits(id, waits)
  if relations.deadline then add_row(id, 'timers', 'timers', relations.deadline, 't' .. id) end
  if status == 'queued' then
    check_queued(id, names, created, entry, workflow, run, queue, relations)
  elseif entry then
    take_off(P, queue, entry)
    disown(P, id)
    redis.call('HDEL', exec, 'entry', 'attempts', 'progress', 'held_back')
    note(id, 'it had an entry and was not queued')
  end
  if (status == 'waiting' and not open) or (status == 'stuck' and not stuck) then
    continue(id, names, status, workflow, created, run, queue, relations)
  end
end

-- check_entry: an entry is the live one of a queued execution.
local function check_entry(entry, flat)
  local fields = {}
  for i = 1, #flat, 2 do fields[flat[i]] = flat[i + 1] end
  local id = fields.id
  if not id then return end -- a worker removes what it can't read
  local status, live, on = unpack(redis.call('HMGET', P .. 'exec:' .. id, 'status', 'entry', 'queue'))
  local is_live_one = live == entry and (on or 'default') == name -- entries of two streams may have one id
  if is_live_one and status ~= 'waiting' and status ~= 'stuck' then return check_execution(id, 'queued') end
  if not status then unlist_uncreated(P, id, fields.workflow or '') end
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
  if looked == 0 and is_reserved(name) and redis.call('EXISTS', queue_key(P, name)) == 0
    and redis.call('SREM', P .. 'queues', name) == 1 then
    note(name, 'a queue was listed that is not there')
  end
  cursor = looked == tonumber(limit) and found[looked][1] or '0'
else
  local key = kind == 'suspensions' and P .. kind or index_of(P, kind, name)
  local after, found = unpack(redis.call('ZSCAN', key, cursor, 'COUNT', limit))
  for i = 1, #found, 2 do
    looked = looked + 1
    if kind == 'suspensions' then check_row(found[i]) else check_execution(found[i], kind) end
  end
  cursor = after
end
return {cursor, looked, repaired}

#!lua flags=allow-oom
-- write_step: journal a step's record and emit events, or emit events alone.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 entry  3 owner  4 known changes  5 step key, '' for events alone
--       6 record: a msgpack array without its last item, the time, which is added here
--       7 of a step that has succeeded: which starts are told with it, 'w' (the workflow's), 's' (the step's), and 'l'
--         when the journal is so large by now that its history has to be told
--       8.. otherwise: events of the workflow's own topic: type, data, type, data
-- Returns the journal's count of changes; -1 when another activation has taken over, -2 when the journal went back.
-- #include execution
local P, id, entry, owner, known, key, record, starts = KEYS[1], unpack(ARGV, 1, 7)
local EVENTS <const> = 8
local MOST_UNTOLD <const> = 100 -- changes of a journal whose history is not told yet
local SECONDS <const> = 1
local MICROSECONDS <const> = 2
local journal = P .. 'journal:' .. id
local count, writer, old = unpack(redis.call('HMGET', journal, '', WRITER, key))
count = tonumber(count or 0)
local direct = writer == owner and #ARGV < EVENTS
local is_long = count + 1 >= MOST_UNTOLD or string.find(starts, 'l', 1, true)
if direct and not old and count >= tonumber(known) and not is_long then
  -- the hottest path of all: a direct writer's new step takes three commands, and nothing that others need is defined
  local time = redis.call('TIME')
  local at = time[SECONDS] * 1000 + time[MICROSECONDS] / 1000 -- in ms, with a fraction that tells steps of one ms apart
  redis.call('HSET', journal, '', count + 1, key, record .. cmsgpack.pack(at))
  return count + 1
end

-- #include fence
-- #include attempt
-- #include stream
local is = not direct and may_write(P, id, entry, owner)
if not direct and not is then return -1 end
if count < tonumber(known) then return -2 end
if key ~= '' and superseded(old, record) then return count end

-- step_events: the events of a step that has succeeded.
local function step_events()
  local mark, events = root_of(id) == id and '' or '\0' .. id, {}
  local attempt = cmsgpack.unpack(record .. '\0')[ATTEMPT]
  if string.find(starts, 'w', 1, true) then
    local workflow = redis.call('HGET', P .. 'exec:' .. id, 'workflow')
    append(events, 'workflow_start' .. mark, workflow_start(workflow, id))
  end
  if string.find(starts, 's', 1, true) then append(events, 'step_start' .. mark, step_start(key, attempt)) end
  append(events, 'step_finish' .. mark, step_finish(key, attempt))
  return events
end

local at
local events = #ARGV >= EVENTS and {unpack(ARGV, EVENTS)} or is and is_told(id, is) and step_events()
if events then
  local ms, sequence = string.match(tell(P, id, is, events), '(%d+)-(%d+)')
  at = ms + math.min(sequence, 999) / 1000
else
  local time = redis.call('TIME')
  at = time[SECONDS] * 1000 + time[MICROSECONDS] / 1000
end
if is then claim(P, id, owner, is, math.floor(at)) end
if key == '' then return count end
count = count + 1
local more = not events and is and {WRITER, owner} or {} -- as it owns the execution now
redis.call('HSET', journal, '', count, key, record .. cmsgpack.pack(at), unpack(more))
if not events and is_long then open_stream(P, id) end
return count

#!lua flags=allow-oom
-- put_back: return an execution to the queue after a delay, because this worker can't load it or read its stored
-- values. With a reason, the delay doubles each time, up to 32-fold, until the journal makes progress.
-- KEYS  1 the partition's prefix
-- ARGV  1 queue  2 id  3 entry  4 delay in ms  5 reason, if there is one to store
-- Returns 1, or 0 when the entry was not the live one (it is deleted).
-- #include journal
-- #include reserved
local P, queue, id, entry, delay, reason = KEYS[1], unpack(ARGV)
local TIMES <const> = 2 -- positions in the field `held_back`: {version, times, progress, reason}
local PROGRESS <const> = 3
local exec = P .. 'exec:' .. id
local status, live, on, workflow, index, created, relations, before = unpack(redis.call('HMGET', exec,
  'status', 'entry', 'queue', 'workflow', 'index', 'created', 'relations', 'held_back'))
if status ~= 'queued' or live ~= entry or (on or 'default') ~= queue then
  take_off(P, queue, entry)
  return 0
end
if reason then
  local progress = changes(P, id)
  local last = before and cmsgpack.unpack(before) or {1, 0, progress}
  local times = last[PROGRESS] == progress and last[TIMES] + 1 or 1
  redis.call('HSET', exec, 'held_back', cmsgpack.pack({1, times, progress, reason}))
  delay = delay * 2 ^ math.min(times - 1, 5)
end
leave_queue(P, id, queue, entry, now + tonumber(delay), index or workflow, created, relations)
return 1

#!lua flags=allow-oom
-- note_progress: store what steps that run have reported of their progress, and emit it where somebody follows.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 entry  3 owner  4 known changes  5 the reports (msgpack list of {step key, attempt, value (codec)})
-- Returns the journal's count of changes; -1 or -2 as write_step does.
-- #include fence
-- #include clock
-- #include stream
-- #include heartbeats
local P, id, entry, owner, known, packed = KEYS[1], unpack(ARGV)
local REPORT_STEP <const> = 1
local REPORT_ATTEMPT <const> = 2
local REPORT_VALUE <const> = 3
local MOST_KEPT <const> = 100 -- steps
local LARGEST_RETRIED <const> = 524288 -- bytes of a record: that of an attempt that is retried is smaller
local count, _, is = fence(P, id, entry, owner, known, '', 'heartbeats')
if count < 0 then return count end
local stored = unpack(is, FURTHER)

-- may_run: whether a step runs, or will run again: its record is none, or that of an attempt that is retried.
local function may_run(key)
  local size = redis.call('HSTRLEN', P .. 'journal:' .. id, key)
  if size == 0 or size > LARGEST_RETRIED then return size == 0 end
  local status = read_record(redis.call('HGET', P .. 'journal:' .. id, key))[STATUS]
  return status == 'retry' or status == 'backoff'
end

local kept, reported = {}, {}
for _, report in ipairs(cmsgpack.unpack(packed)) do
  local key, attempt, value = report[REPORT_STEP], report[REPORT_ATTEMPT], report[REPORT_VALUE]
  reported[key] = true
  kept[#kept + 1] = {1, key, attempt, value, now}
  if is_told(id, is) then
    local data = '\131' .. cmsgpack.pack('step_key', key, 'attempt', attempt, 'progress') .. value
    tell(P, id, is, {event_of(id, root_of(id), 'step_progress'), data})
  end
end
for _, one in ipairs(read_heartbeats(stored)) do
  local key = one[HEARTBEAT_STEP]
  if #kept < MOST_KEPT and not reported[key] and may_run(key) then kept[#kept + 1] = one end
end
claim(P, id, owner, is, now)
redis.call('HSET', P .. 'exec:' .. id, 'heartbeats', cmsgpack.pack(kept))
return count

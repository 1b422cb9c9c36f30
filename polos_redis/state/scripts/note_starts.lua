#!lua flags=allow-oom
-- note_starts: note that an execution's start, and those of its steps that run for a while, are to be seen at once.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 entry  3 owner  4 known changes  5 the steps that run (msgpack list of {step key, attempt, ms since it
--       started, whether its start is told already, ms since its attempt timed out or nil})  6 '1' unless the
--       workflow's start is told already
-- Returns the journal's count of changes; -1 or -2 as write_step does.
-- #include fence
-- #include clock
-- #include stream
local P, id, entry, owner, known, packed, first = KEYS[1], unpack(ARGV)
local STEP_KEY <const> = 1 -- in a step that runs
local STEP_ATTEMPT <const> = 2
local STEP_AGE <const> = 3
local STEP_TOLD <const> = 4
local STEP_TIMED_OUT <const> = 5
local ITEMS_PER_ENTRY <const> = 16 -- types and data: a sequence id tells no more than 8 events apart
local count, _, is = fence(P, id, entry, owner, known, '', 'workflow')
if count < 0 then return count end
local workflow = unpack(is, FURTHER)
local root, running, events = root_of(id), {}, {}
if first == '1' then append(events, event_of(id, root, 'workflow_start'), workflow_start(workflow, id)) end
for _, one in ipairs(cmsgpack.unpack(packed)) do
  local key, attempt = one[STEP_KEY], one[STEP_ATTEMPT]
  local row = {1, key, attempt, now_us / 1000 - one[STEP_AGE]}
  if one[STEP_TIMED_OUT] then row[#row + 1] = now_us / 1000 - one[STEP_TIMED_OUT] end
  running[#running + 1] = row
  if not one[STEP_TOLD] then append(events, event_of(id, root, 'step_start'), step_start(key, attempt)) end
end
for i = 1, is_told(id, is) and #events or 0, ITEMS_PER_ENTRY do
  tell(P, id, is, {unpack(events, i, math.min(#events, i + ITEMS_PER_ENTRY - 1))})
end
claim(P, id, owner, is, now)
redis.call('HSET', P .. 'exec:' .. id, 'running', cmsgpack.pack(running))
return count

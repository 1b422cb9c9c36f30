#!lua flags=allow-oom
-- continue_as_new: end an activation, and begin the next run of its execution with another input and an empty journal.
-- Its waits must all be decided. Children that nobody waits for go on.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 entry  3 owner  4 known changes  5 how many of the answers accepted since it was queued it has seen
--       6 input (codec)  7 origin (codec)  8 state of the workflow (codec), or ''  9.. events that come before it
-- Returns 0; -1 or -2 as write_step does; the journal's count of changes when it has not seen all answers, and the step
-- keys of open waits, where there are any: then nothing is changed.
-- #include fence
-- #include continuing
-- #include semaphore
local P, id, entry, owner, known, seen, input, origin, state = KEYS[1], unpack(ARGV, 1, 8)
local EVENTS <const> = 9
local exec = P .. 'exec:' .. id
local count, _, e = fence(P, id, entry, owner, known, '', unpack(ENDING_FIELDS, FURTHER))
if count < 0 or unseen(e[EXEC_ANSWERS], seen) then return count end
local open = {}
for _, key in ipairs(read_waits(e[EXEC_WAITS])) do
  local status = record_of(P, id, key)[STATUS]
  if status == 'open' or status == 'backoff' then open[#open + 1] = key end
end
if #open > 0 then return open end

local relations, name = read_relations(e[EXEC_RELATIONS]), e[EXEC_INDEX] or e[EXEC_WORKFLOW]
list(P, 'queued', name, e[EXEC_CREATED], id) -- first: repair finds it there
if #ARGV >= EVENTS then tell(P, id, e, {unpack(ARGV, EVENTS)}) end
if not is_told(id, e) then open_stream(P, id, e[EXEC_STARTED]) end -- what is dropped has been told then
redis.call('HDEL', exec, 'entry', 'owner') -- no worker gets it before it has continued as a whole
take_off(P, e[EXEC_QUEUE], entry)
leave(P, id, relations)
-- the code of any version may run it: the first activation of the run brings its own
local queue = string.match(e[EXEC_QUEUE] or '', '^([^%z]*)%z[^%z]+%z') or e[EXEC_QUEUE]
local run = tonumber(redis.call('HGET', exec, 'run')) + 1
local fields = {'continuing', 1, 'run', run, 'since', run, 'input', input, 'origin', origin}
if state ~= '' then append(fields, 'state', state) end
if queue then append(fields, 'queue', queue) end
redis.call('HSET', exec, unpack(fields)) -- from here on it is the next run; repair does the rest if need be
clear_runs(P, id, run, tonumber(e[EXEC_RETENTION]), e[EXEC_WAITS], e[EXEC_WORKFLOW], e[EXEC_VERSION])
if root_of(id) == id then
  redis.call('XTRIM', P .. 'topic:' .. id, 'MINID', '~', math.max(0, now - e[EXEC_RETENTION]))
end
offer_listed(P, id, name, e[EXEC_CREATED], e[EXEC_WORKFLOW], run, queue, relations,
  inlined_payload(P, id, input, origin))
return 0

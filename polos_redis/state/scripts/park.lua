#!lua flags=allow-oom
-- park: end an activation at its waits. When one of them is already decided, only closes the waits that were given up.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 entry  3 owner  4 known changes  5 state of the workflow (codec), or ''
--       6 how many of the answers accepted since it was queued it has seen
--       7 open suspensions of the journal that the code has not reached (msgpack list of step keys), or ''
--       8 how many waits the workflow's code has given up: they are closed  9.. step keys: those, then the waits
-- Returns 0 when parked; {changes, key, record, ...} with the decided ones when not; -1 or -2 as write_step does;
-- -3 when the journal does not hold one of the waits; the journal's count of changes when it has not seen all answers.
-- #include fence
-- #include clock
-- #include resolve
-- #include deactivate
local P, id, entry, owner, known, state, seen, unreached, given_up = KEYS[1], unpack(ARGV, 1, 8)
local STEP_KEYS <const> = 9
local count, _, is = fence(P, id, entry, owner, known, '', 'workflow', 'index', 'created', 'queue', 'relations',
  'answers')
if count < 0 then return count end
local workflow, index, created, queue, relations, answers = unpack(is, FURTHER)
local first = STEP_KEYS + tonumber(given_up) -- where the waits begin
if #ARGV < first then return -3 end
local decided = {count}
for i = first, #ARGV do
  local packed = redis.call('HGET', P .. 'journal:' .. id, ARGV[i])
  if not packed then return -3 end
  local status = cmsgpack.unpack(packed)[STATUS]
  if status ~= 'open' and status ~= 'backoff' then append(decided, ARGV[i], packed) end
end
if #decided == 1 and unseen(answers, seen) then return count end
for i = STEP_KEYS, first - 1 do give_up(P, id, ARGV[i]) end
if #decided > 1 then return decided end

if state ~= '' then redis.call('HSET', P .. 'exec:' .. id, 'state', state) end
deactivate(P, id, is, entry, 'waiting', index or workflow, created, queue, relations)
if unreached ~= '' then redis.call('HSET', P .. 'exec:' .. id, 'unreached_waits', unreached) end
return 0

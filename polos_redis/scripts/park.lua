#!lua flags=allow-oom
-- park: end an activation at its waits. Changes nothing when one of them is already decided.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 entry  3 owner  4 known changes  5.. step keys of the waits
-- Returns 0 when parked; {changes, key, record, ...} with the decided ones when not; -1 or -2 as write does;
-- -3 when the journal does not hold one of the waits.
-- #include clock
-- #include fence
-- #include queue
local P, id = KEYS[1], ARGV[1]
local n, _, e = fence(P, id, ARGV[2], ARGV[3], ARGV[4], '', 'workflow', 'created', 'queue')
if n < 0 then return n end
if #ARGV < 5 then return -3 end
local decided = {n}
for i = 5, #ARGV do
  local packed = redis.call('HGET', P .. 'journal:' .. id, ARGV[i])
  if not packed then return -3 end
  local status = cmsgpack.unpack(packed)[3]
  if status ~= 'open' and status ~= 'backoff' then
    decided[#decided + 1] = ARGV[i]
    decided[#decided + 1] = packed
  end
end
if #decided > 1 then return decided end

local exec = P .. 'exec:' .. id
take_off(P, e[7], ARGV[2])
reindex(P, id, e[5], e[6], 'queued', 'waiting')
redis.call('HSET', exec, 'status', 'waiting')
redis.call('HDEL', exec, 'entry', 'owner', 'attempts', 'progress')
return 0

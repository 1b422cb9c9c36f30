#!lua flags=allow-oom
-- park: end an activation at its waits. Changes nothing but the given-up waits when one of them is already decided.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 entry  3 owner  4 known changes  5 state of the workflow (codec), or ''
--       6 how many of the following are waits that its code has given up: they are closed  7.. step keys: those, then
--       the waits
-- Returns 0 when parked; {changes, key, record, ...} with the decided ones when not; -1 or -2 as write does;
-- -3 when the journal does not hold one of the waits.
-- #include fence
-- #include clock
-- #include resolve
-- #include semaphore
local P, id = KEYS[1], ARGV[1]
local n, _, e = fence(P, id, ARGV[2], ARGV[3], ARGV[4], '', 'workflow', 'created', 'queue', 'relations')
if n < 0 then return n end
local first = 7 + tonumber(ARGV[6])
if #ARGV < first then return -3 end
local decided = {n}
for i = first, #ARGV do
  local packed = redis.call('HGET', P .. 'journal:' .. id, ARGV[i])
  if not packed then return -3 end
  local status = cmsgpack.unpack(packed)[3]
  if status ~= 'open' and status ~= 'backoff' then
    decided[#decided + 1] = ARGV[i]
    decided[#decided + 1] = packed
  end
end
for i = 7, first - 1 do give_up(P, id, ARGV[i], now) end
if #decided > 1 then return decided end

local exec = P .. 'exec:' .. id
take_off(P, e[7], ARGV[2])
reindex(P, id, e[5], e[6], 'queued', 'waiting')
if ARGV[5] ~= '' then redis.call('HSET', exec, 'state', ARGV[5]) end
redis.call('HSET', exec, 'status', 'waiting')
redis.call('HDEL', exec, 'entry', 'owner', 'attempts', 'progress')
if e[8] then leave(P, id, read_relations(e[8])) end
return 0

#!lua
-- invoke: create an execution and make it runnable. Idempotent by the execution's id.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 workflow  3 queue  4 input (codec)  5 retention in ms  6 largest input carried in the entry, bytes
-- Returns 1 when created, 0 when there was one with this id (nothing is changed).
-- #include clock
local P, id, workflow, queue, input = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local exec = P .. 'exec:' .. id
if redis.call('EXISTS', exec) == 1 then return 0 end

local entry
if #input <= tonumber(ARGV[6]) then
  entry = redis.call('XADD', P .. 'queue:' .. queue, '*', 'id', id, 'workflow', workflow, 'run', 1, 'input', input)
else
  entry = redis.call('XADD', P .. 'queue:' .. queue, '*', 'id', id, 'workflow', workflow, 'run', 1)
end
redis.call('HSET', exec, 'workflow', workflow, 'status', 'queued', 'run', 1, 'input', input,
  'created', now_us, 'retention', ARGV[5], 'entry', entry)
if queue ~= 'default' then redis.call('HSET', exec, 'queue', queue) end
redis.call('ZADD', P .. 'index:queued:' .. workflow, now_us, id)
redis.call('SADD', P .. 'workflows', workflow)
return 1

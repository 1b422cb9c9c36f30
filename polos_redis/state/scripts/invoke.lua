#!lua
-- invoke: create an execution on the default queue, without any options. Idempotent by the execution's id.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 workflow  3 input (codec)  4 retention in ms
-- Returns 1 when created, 0 when there was one with this id (nothing is changed).
-- #include queue
local P, id, workflow, input, retention = KEYS[1], unpack(ARGV)
local name, told = name_for(P, id, workflow)
if not name then return 0 end
-- one of the hottest scripts: the id of the entry is the server's time
local entry = add_entry(P, id, workflow, 1, nil, #input <= 4096 and {'input', input})
local ms, number = string.match(entry, '^(%d+)-(%d+)$')
local created = ms * 1000 + number
list(P, 'all', name, created, id)
local more = name ~= workflow and {'index', name} or {}
if told then append(more, 'stream', 1) end
redis.call('HSET', P .. 'exec:' .. id, 'workflow', workflow, 'status', 'queued', 'run', 1, 'input', input,
  'created', created, 'retention', retention, 'entry', entry, unpack(more))
return 1

#!lua
-- invoke: create an execution and make it runnable. Idempotent by the execution's id.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 workflow  3 input (codec)  4 retention in ms  5 options (msgpack map, see creation.lua), or ''
-- Returns 1 when created, 0 when there was one with this id (nothing is changed), -1 when that one was started by
-- another request (its digest differs).
-- #include creation
local P, id, workflow, input, retention, options = KEYS[1], unpack(ARGV)
options = options ~= '' and cmsgpack.unpack(options)
if redis.call('EXISTS', P .. 'exec:' .. id) == 0 then
  create(P, id, workflow, input, retention, now_us, options)
  return 1
end
local digest = options and options.digest
if digest and redis.call('HGET', P .. 'exec:' .. id, 'digest') ~= digest then return -1 end
return 0

#!lua
-- invoke_with_options: create an execution and make it runnable. Idempotent by the execution's id.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 workflow  3 input (codec)  4 retention in ms  5 options (msgpack map, see creation.lua)
-- Returns 1 when created, 0 when there was one with this id (nothing is changed), -1 when that one was started by
-- another request (its digest differs).
-- #include creation
local P, id, workflow, input, retention, packed = KEYS[1], unpack(ARGV)
local options = cmsgpack.unpack(packed)
if create(P, id, workflow, input, retention, now_us, options) then return 1 end
if options.digest and redis.call('HGET', P .. 'exec:' .. id, 'digest') ~= options.digest then return -1 end
return 0

#!lua flags=allow-oom
-- publish_definition: store what workers announce of a workflow, or the limit of a queue. Allowed at maxmemory:
-- workers must be able to start where memory is to be freed.
-- KEYS  1 the partition's prefix
-- ARGV  1 'workflow' or 'limit'  2 workflow or queue  3 definition (msgpack) or limit, '' for none
-- Returns 1.
local P, kind, name, value = KEYS[1], unpack(ARGV)
local key = kind == 'limit' and P .. 'limits' or P .. 'definitions'
if value == '' then redis.call('HDEL', key, name) else redis.call('HSET', key, name, value) end
return 1

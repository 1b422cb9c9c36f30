#!lua flags=allow-oom
-- define: what workers make known of a workflow or of a queue's limit. Allowed at maxmemory: workers must be able to
-- start where memory is to be freed.
-- KEYS  1 the partition's prefix
-- ARGV  1 'workflow' or 'limit'  2 workflow or queue  3 definition (msgpack) or limit, '' for none
-- Returns 1.
local key = KEYS[1] .. 'definitions'
if ARGV[1] == 'limit' then key = KEYS[1] .. 'limits' end
if ARGV[3] == '' then redis.call('HDEL', key, ARGV[2]) else redis.call('HSET', key, ARGV[2], ARGV[3]) end
return 1

#!lua
-- skip_time: remove what has expired in a test's namespace, then move its clock. Idempotent.
-- KEYS  1 the partition's prefix
-- ARGV  1 by how many ms the clock is to be ahead of the server's  2 how many keys to remove at most
-- Returns how many were removed.
-- #include clock
local P, skipped, most = KEYS[1], unpack(ARGV)
local expired = redis.call('ZRANGEBYSCORE', P .. 'expiring', '-inf', now, 'LIMIT', 0, most)
for _, key in ipairs(expired) do
  if redis.call('PTTL', key) ~= -1 then redis.call('UNLINK', key) end
  redis.call('ZREM', P .. 'expiring', key)
end
redis.call('SET', P .. 'skipped', skipped)
for _, name in ipairs(redis.call('ZRANGE', P .. 'workflows', 0, -1)) do
  redis.call('ZADD', P .. 'workflows', 'XX', 0, name) -- their retention may be over
end
return #expired

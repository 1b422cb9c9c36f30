#!lua flags=no-writes
-- read_audit: some entries of a root's audit, oldest first. It returns fewer when they are large.
-- KEYS  1 the partition's prefix
-- ARGV  1 id of the root  2 how many entries to skip  3 how many to return  4 how many bytes of them, beyond the first
-- Returns {how many entries the audit has, a list of entries}.
local P, id, skipped, count, most_bytes = KEYS[1], unpack(ARGV)
local audit = P .. 'audit:' .. id
skipped, count, most_bytes = tonumber(skipped), tonumber(count), tonumber(most_bytes)
local total, found, bytes = redis.call('LLEN', audit), {}, 0
for i = skipped, math.min(skipped + count, total) - 1 do
  local entry = redis.call('LINDEX', audit, i)
  found[#found + 1] = entry
  bytes = bytes + #entry
  if bytes > most_bytes then break end
end
return {total, found}

#!lua flags=no-writes
-- check_commands: find out which commands the caller can't run here. Changes nothing.
-- KEYS  1 the partition's prefix
-- ARGV  1 commands (msgpack): a list of lists of words, with keys and channels of this partition
-- Returns {positions the server doesn't know, positions the user may not run}, or nil if it can't say.
local P, packed = KEYS[1], unpack(ARGV)
if not redis.acl_check_cmd then return false end
local unknown, denied = {}, {}
for position, words in ipairs(cmsgpack.unpack(packed)) do
  local known, allowed = pcall(redis.acl_check_cmd, unpack(words))
  if not known then unknown[#unknown + 1] = position
  elseif not allowed then denied[#denied + 1] = position end
end
return { unknown, denied }

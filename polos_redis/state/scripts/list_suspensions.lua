#!lua flags=no-writes
-- list_suspensions: a page of open suspensions, oldest first.
-- KEYS  1 the partition's prefix
-- ARGV  1 opened after (us, exclusive) or '-inf'  2 limit
-- Returns a list of {execution id, step key, workflow, opened us, record}.
local P, after, limit = KEYS[1], unpack(ARGV)
if after ~= '-inf' then after = '(' .. after end
local page = redis.call('ZRANGEBYSCORE', P .. 'suspensions', after, '+inf', 'WITHSCORES', 'LIMIT', 0, tonumber(limit))
local result = {}
for i = 1, #page, 2 do
  local id, key = string.match(page[i], '^(%S+) (.*)$')
  local workflow, opened = redis.call('HGET', P .. 'exec:' .. id, 'workflow'), string.format('%.0f', page[i + 1])
  result[#result + 1] = {id, key, workflow, opened, redis.call('HGET', P .. 'journal:' .. id, key)}
end
return result

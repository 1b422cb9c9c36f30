#!lua flags=no-writes
-- inbox: open suspensions, oldest first, a page.
-- KEYS  1 the partition's prefix
-- ARGV  1 opened after (us, exclusive) or '-inf'  2 limit
-- Returns a list of {execution id, step key, workflow, opened us, record}.
local P = KEYS[1]
local after = ARGV[1] == '-inf' and '-inf' or '(' .. ARGV[1]
local page = redis.call('ZRANGEBYSCORE', P .. 'suspensions', after, '+inf', 'WITHSCORES', 'LIMIT', 0, tonumber(ARGV[2]))
local result = {}
for i = 1, #page, 2 do
  local id, key = string.match(page[i], '^(%S+) (.*)$')
  result[#result + 1] = {id, key, redis.call('HGET', P .. 'exec:' .. id, 'workflow'),
    string.format('%.0f', tonumber(page[i + 1])), redis.call('HGET', P .. 'journal:' .. id, key)}
end
return result

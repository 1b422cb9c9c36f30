#!lua flags=allow-oom
-- suspend: open a wait for a person. Idempotent: an existing record is returned as it is, with its first
-- deadline and no second event. An answer that came early decides it at once, if anything from anybody will do.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 entry  3 owner  4 known changes  5 step key  6 timeout in ms, 0 for none  7 what is shown (codec)
--       8 the race it decides, or ''  9 the races it takes part in, as for join  10 digest of what is shown
--       11 retention of its audit, ms  12 further options (msgpack map), or '': terms, default (codec: what holds when
--       nobody answers in time), told (codec: the events' data, where it is more than what is shown), channels (a list:
--       who is to be notified), run (where it is not the first)  13.. events that come before it on the workflow's topic
-- Returns {changes, record}; -1 or -2 as write does.
-- #include fence
-- #include clock
-- #include resolve
-- #include errands
-- #include outbox
local P, id, key = KEYS[1], ARGV[1], ARGV[5]
local n, old, e = fence(P, id, ARGV[2], ARGV[3], ARGV[4], key)
if n < 0 then return n end
claim(P, id, ARGV[3], e, now)
local journal = P .. 'journal:' .. id
local timeout, shown = tonumber(ARGV[6]), ARGV[7]
if old then return {n, old} end

local deadline = timeout > 0 and now + timeout or 0
local more = ARGV[12] ~= '' and cmsgpack.unpack(ARGV[12]) or {}
local record = {1, 'suspend', 'open', now, deadline, shown, more.default or '', '', '', '', 0, more.policy or '', '', ARGV[8],
  ARGV[10], tonumber(ARGV[11]), more.run or 1}
if ARGV[9] ~= '' then
  if not join(P, id, ARGV[9], now) then
    record[STATUS], record[DECIDED] = 'closed', now
    if ARGV[13] then redis.call('XADD', P .. 'topic:' .. string.match(id, '^[^.]*'), '*', unpack(ARGV, 13)) end
    local packed = rewrite(P, id, key, record)
    return {tonumber(redis.call('HGET', journal, '')), packed}
  end
  n = tonumber(redis.call('HGET', journal, '') or 0)
end
local early = redis.call('HGET', P .. 'early:' .. id, key)
local root = string.match(id, '^[^.]*')
local events, event_data = {unpack(ARGV, 13)}, more.event_data or shown
events[#events + 1] = 'suspend_' .. key .. (root == id and '' or '\0' .. id)
events[#events + 1] = event_data
note_wait(P, id, key)
redis.call('XADD', P .. 'topic:' .. key .. '/' .. id, '*', 'suspend', event_data)
redis.call('PERSIST', P .. 'topic:' .. key .. '/' .. id) -- somebody may have published to it before
redis.call('XADD', P .. 'topic:' .. root, '*', unpack(events))
if root ~= id then redis.call('SADD', P .. 'below:' .. root, id .. ' ' .. key) end
if early and record[POLICY] == '' then
  local answer = cmsgpack.unpack(early)
  record[ANSWER], record[DIGEST], record[BY], record[CHANNEL] = answer[1], answer[2], answer[3], answer[4]
  redis.call('HDEL', P .. 'early:' .. id, key)
  redis.call('HSET', journal, '', n + 1)
  local packed = resolve(P, id, key, record, 'answered', now)
  return {tonumber(redis.call('HGET', journal, '')), packed}
end
local packed = cmsgpack.pack(record)
redis.call('HSET', journal, '', n + 1, key, packed)
redis.call('ZADD', P .. 'suspensions', now_us, id .. ' ' .. key)
if deadline > 0 then redis.call('ZADD', P .. 'timers', deadline, 's' .. id .. ' ' .. key) end
if early then note_errand(P, 'y' .. id .. ' ' .. key) end -- somebody has to check it
for _, channel in ipairs(more.channels or {}) do post(P, channel, now, id .. ' ' .. key) end
return {n + 1, packed}

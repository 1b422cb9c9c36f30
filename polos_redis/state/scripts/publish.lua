#!lua
-- publish: add an event to a topic, and hand it to who waits for one.
-- KEYS  1 the partition's prefix
-- ARGV  1 topic  2 execution the topic belongs to, or ''  3 retention of a free topic, ms  4 event type  5 data (codec)
--       6 '' or a name: published once under it  7 for so many ms, '' for the retention
-- Returns the event's stream id.
-- #include errands
-- #include event
local P, topic, key = KEYS[1], ARGV[1], KEYS[1] .. 'topic:' .. ARGV[1]
local once = ARGV[6] ~= '' and P .. 'once:' .. ARGV[6]
local before = once and redis.call('GET', once)
if before then return before end
local ttl = redis.call('PTTL', key)
local entry = redis.call('XADD', key, '*', ARGV[4], ARGV[5])
local e = ARGV[2] ~= '' and redis.call('HMGET', P .. 'exec:' .. ARGV[2], 'status', 'retention') or {}
if not e[1] then
  redis.call('XTRIM', key, 'MINID', '~', math.max(0, now - tonumber(ARGV[3])))
  redis.call('PEXPIRE', key, ARGV[3])
elseif e[1] ~= 'queued' and e[1] ~= 'waiting' then
  if ttl < 0 then redis.call('PEXPIRE', key, e[2]) end
elseif ttl ~= -1 and topic ~= string.match(ARGV[2], '^[^.]*') then
  redis.call('PEXPIRE', key, e[2]) -- neither its stream nor a suspension's topic: its end does not know of it
end
if once then redis.call('SET', once, entry, 'PX', ARGV[7] ~= '' and ARGV[7] or ARGV[3]) end

local subs = P .. 'subs:' .. topic
local count = redis.call('HLEN', subs)
if count == 0 then return entry end
local many = count > 100 or redis.call('HEXISTS', subs, 'g') == 1 -- no event overtakes one that is being given
local waiting, others = many, many
if many then
  redis.call('HSET', subs, 'g', entry)
else
  local members = redis.call('HGETALL', subs)
  for i = 1, #members, 2 do
    local member, kind = members[i], string.sub(members[i], 1, 1)
    if kind == 'w' then
      occur(P, member, entry, ARGV[4], ARGV[5])
      redis.call('HDEL', subs, member)
    elseif kind ~= 'f' then
      others = true
    elseif not string.find(members[i + 1], '=', 1, true) then -- its event is this one, however many follow
      redis.call('HSET', subs, member, members[i + 1] .. '=' .. entry)
      waiting = true
    end
  end
end
if waiting then note_errand(P, 'w' .. entry .. ' ' .. topic) end
if others then note_errand(P, 'e' .. topic) end
return entry

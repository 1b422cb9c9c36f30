#!lua flags=allow-oom
-- suspend: open a wait for a person. Idempotent: an existing record is returned as it is, with its first deadline and
-- no second event. An early answer decides it at once, if it has no policy and came without an API key, which may have
-- been revoked since.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 entry  3 owner  4 known changes  5 step key  6 timeout in ms, 0 for none  7 what is shown (codec)
--       8 the race it decides, or ''  9 the races it takes part in, as for join  10 digest of what is shown
--       11 retention of its audit, ms  12 further options (msgpack map), or '': policy (of answers), default (codec:
--       what holds when nobody answers in time), event_data (codec: where it is more than what is shown), channels (a
--       list: by which people are notified), run (where it is not the first),
--       form (codec: of its page)
--       13.. events that come before it on the workflow's topic
-- Returns {changes, record}; -1 or -2 as write_step does.
-- #include fence
-- #include clock
-- #include resolve
-- #include early
-- #include errands
-- #include outbox
-- #include stream
local P, id, entry, owner, known, key, timeout, shown, decides, races, shown_digest, audit, options =
  KEYS[1], unpack(ARGV, 1, 12)
local EVENTS <const> = 13
local count, old, is = fence(P, id, entry, owner, known, key)
if count < 0 then return count end
claim(P, id, owner, is, now)
if old then return {count, old} end

timeout = tonumber(timeout)
options = options ~= '' and cmsgpack.unpack(options) or {}
local deadline = timeout > 0 and now + timeout or 0
local answer, digest, by, channel, decided, decisions = options.default or '', '', '', '', 0, ''
local record = {1, 'suspend', 'open', now, deadline, shown, answer, digest, by, channel, decided, options.policy or '',
  decisions, decides, shown_digest, tonumber(audit), options.run or 1, options.form}
if races ~= '' then
  if not join(P, id, races) then
    record[STATUS], record[DECIDED] = 'closed', now
    if #ARGV >= EVENTS and is_told(id, is) then tell(P, id, is, {unpack(ARGV, EVENTS)}) end
    local packed = rewrite(P, id, key, record)
    return {changes(P, id), packed}
  end
  count = changes(P, id)
end
local journal, member, topic = P .. 'journal:' .. id, id .. ' ' .. key, P .. 'topic:' .. key .. '/' .. id
local early = redis.call('HGET', P .. 'early:' .. id, key)
early = early and read_record(early) -- a damaged one is left to its errand
local root = root_of(id)
local events, event_data = {unpack(ARGV, EVENTS)}, options.event_data or shown
append(events, event_of(id, root, 'suspend_' .. key), event_data)
note_wait(P, id, key)
redis.call('XADD', topic, '*', 'suspend', event_data)
redis.call('PERSIST', topic) -- somebody may have published to it before
tell(P, id, is, events)
if root ~= id then redis.call('SADD', P .. 'below:' .. root, member) end
if early and record[POLICY] == '' and early[EARLY_KEY] == '' then
  record[ANSWER], record[DIGEST], record[BY], record[CHANNEL] = unpack(early, EARLY_ANSWER)
  redis.call('HDEL', P .. 'early:' .. id, key)
  redis.call('HSET', journal, '', count + 1)
  local packed = resolve(P, id, key, record, 'answered')
  return {changes(P, id), packed}
end
local packed = cmsgpack.pack(record)
redis.call('HSET', journal, '', count + 1, key, packed)
redis.call('ZADD', P .. 'suspensions', now_us, member)
if deadline > 0 then redis.call('ZADD', P .. 'timers', deadline, 's' .. member) end
if early then note_errand(P, 'y' .. member) end -- it has to be checked against the policy, and its key
for _, name in ipairs(options.channels or {}) do post(P, name, now, member) end
return {count + 1, packed}

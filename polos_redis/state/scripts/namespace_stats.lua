#!lua flags=no-writes
-- namespace_stats: count everything in a partition without scanning it.
-- KEYS  1 the partition's prefix
-- ARGV  1 how many workflows follow  2.. workflows, then queues: the caller asks for a bounded number of each
-- Returns {open suspensions, age of the oldest (ms), timers, timers that are due, errands, errands that are due,
-- errands that were set aside, 1 when there is a timer leader else 0, by workflow a list of counts (queued, waiting,
-- stuck, completed, failed, cancelled), by queue a list of counts (entries to be delivered, entries delivered, slots
-- held, waiters)}.
-- #include clock
-- #include index
local P, workflows = KEYS[1], unpack(ARGV, 1, 1)
local NAMES <const> = 2
local queues = NAMES + tonumber(workflows) -- where they begin
local by_workflow, by_queue = {}, {}

local function count(what, name)
  return redis.call('ZCARD', index_of(P, what, name))
end

for i = NAMES, queues - 1 do
  local all, ended, waiting, stuck = count('all', ARGV[i]), count('ended', ARGV[i]), count('waiting', ARGV[i]),
    count('stuck', ARGV[i])
  local failed, cancelled = count('failed', ARGV[i]), count('cancelled', ARGV[i])
  by_workflow[#by_workflow + 1] = {math.max(0, all - ended - waiting - stuck), waiting, stuck,
    math.max(0, ended - failed - cancelled), failed, cancelled}
end
for i = queues, #ARGV do
  local stream, waiters = P .. 'queue:' .. ARGV[i], redis.call('ZCARD', P .. 'waiters:' .. ARGV[i])
  local entries, delivered = redis.call('XLEN', stream), 0
  if entries > 0 then
    local pending = redis.pcall('XPENDING', stream, 'workers')
    if not pending.err then delivered = unpack(pending) end -- no worker may have created the group yet
  end
  by_queue[#by_queue + 1] = {math.max(0, entries - delivered), delivered,
    redis.call('HLEN', P .. 'slots:' .. ARGV[i]) - waiters, waiters}
end
local _, oldest = unpack(redis.call('ZRANGE', P .. 'suspensions', 0, 0, 'WITHSCORES'))
return {redis.call('ZCARD', P .. 'suspensions'), oldest and math.max(0, now - math.floor(oldest / 1000)) or 0,
  redis.call('ZCARD', P .. 'timers'), redis.call('ZCOUNT', P .. 'timers', '-inf', now),
  redis.call('ZCARD', P .. 'errands'), redis.call('ZCOUNT', P .. 'errands', '-inf', now),
  redis.call('ZCOUNT', P .. 'errands', '+inf', '+inf'),
  redis.call('EXISTS', P .. 'timer_leader'), by_workflow, by_queue}

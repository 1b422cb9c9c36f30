#!lua flags=no-writes
-- census: how much there is of everything, counted without going through it.
-- KEYS  1 the partition's prefix
-- ARGV  1 how many workflows follow  2.. workflows, then queues: the caller asks for a bounded number of each
-- Returns {open suspensions, how long the oldest is open (ms), timers, those that are due, errands, those that are
-- due, 1 when a worker holds timer leadership, counts by workflow (queued, waiting, completed, failed, cancelled), counts by
-- queue (entries to be delivered, entries delivered, slots taken in its semaphore, those in line)}.
-- #include clock
local P, STATUSES = KEYS[1], {'queued', 'waiting', 'completed', 'failed', 'cancelled'}
local workflows = tonumber(ARGV[1])
local by_workflow, by_queue = {}, {}
for i = 2, workflows + 1 do
  local counts = {}
  for j, status in ipairs(STATUSES) do
    counts[j] = redis.call('ZCARD', P .. 'index:' .. status .. ':' .. ARGV[i])
  end
  by_workflow[#by_workflow + 1] = counts
end
for i = workflows + 2, #ARGV do
  local stream, waiters = P .. 'queue:' .. ARGV[i], redis.call('ZCARD', P .. 'waiters:' .. ARGV[i])
  local entries, delivered = redis.call('XLEN', stream), 0
  if entries > 0 then
    local pending = redis.pcall('XPENDING', stream, 'workers')
    if not pending.err then delivered = pending[1] end -- no worker may have made the group yet
  end
  by_queue[#by_queue + 1] = {math.max(0, entries - delivered), delivered,
    redis.call('HLEN', P .. 'slots:' .. ARGV[i]) - waiters, waiters}
end
local oldest = redis.call('ZRANGE', P .. 'suspensions', 0, 0, 'WITHSCORES')[2]
return {redis.call('ZCARD', P .. 'suspensions'), oldest and math.max(0, now - math.floor(oldest / 1000)) or 0,
  redis.call('ZCARD', P .. 'timers'), redis.call('ZCOUNT', P .. 'timers', '-inf', now),
  redis.call('ZCARD', P .. 'errands'), redis.call('ZCOUNT', P .. 'errands', '-inf', now),
  redis.call('EXISTS', P .. 'timer_leader'), by_workflow, by_queue}

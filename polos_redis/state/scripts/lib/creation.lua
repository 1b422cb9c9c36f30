-- #include clock
-- #include semaphore
-- #include index
-- create: create an execution and make it runnable: at once, when it gets a slot, or later. `created` is its score in
-- the index, us. `o` are its options, one map: queue, origin (where it comes from, for its code), semaphore (if a limit
-- is known), limit, near, timeout (of the run, ms), delay (ms), at (ms), digest (of the request), parent, key.
local function create(P, id, workflow, input, retention, created, o)
  local exec = P .. 'exec:' .. id
  add_to_index(P, id, workflow, created)
  local fields = {'workflow', workflow, 'status', 'queued', 'run', 1, 'input', input, 'created', created,
    'retention', retention}
  if not o then
    redis.call('HSET', exec, unpack(fields))
    return put_on(P, id, workflow, 1, nil, #input <= 4096 and {'input', input} or nil)
  end
  for _, name in ipairs({'queue', 'origin', 'digest'}) do
    if o[name] then append(fields, name, o[name]) end
  end
  local from = math.max(now + (o.delay or 0), o.at or 0)
  local relations = {parent = o.parent, key = o.key, timeout = o.timeout}
  local limit = o.semaphore and limit_of(P, o.semaphore, o.limit)
  if limit then relations.semaphore, relations.limit, relations.near = o.semaphore, limit, o.near end
  if o.timeout then
    relations.deadline = from + o.timeout
    redis.call('ZADD', P .. 'timers', relations.deadline, 't' .. id)
  end
  redis.call('HSET', exec, 'relations', cmsgpack.pack(relations), unpack(fields))
  if from > now then
    redis.call('ZADD', P .. 'timers', from, 'p' .. id)
  else
    offer(P, id, workflow, 1, o.queue, relations, inlined_payload(P, id, input, o.origin))
  end
end

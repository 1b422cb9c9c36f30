-- #include clock
-- #include semaphore
-- #include index
-- relations_for: what binds a new execution that starts at a time, ms, to others, by its options (see create).
local function relations_for(P, o, from)
  local relations = {parent = o.parent, parent_created = o.parent_created, parent_since = o.parent_since, key = o.key,
    timeout = o.timeout}
  local limit = o.semaphore and limit_of(P, o.semaphore, o.limit)
  if limit then relations.semaphore, relations.limit, relations.near = o.semaphore, limit, o.near end
  if o.timeout then relations.deadline = from + o.timeout end
  return relations
end

-- create: create an execution and make it runnable: at once, when it gets a slot, or later; unless there is one with
-- its id. Returns whether it was created. `created` is its score in the index, us. `o` are its options, one map: queue,
-- origin (where it comes from, for its code), semaphore (if a limit is known), limit, near, timeout (of the run, ms),
-- delay (ms), at (ms), digest (of the request), parent, parent_created, parent_since (the run that its journal began
-- with, if it has continued as new), key.
local function create(P, id, workflow, input, retention, created, o)
  o = o or {}
  local exec = P .. 'exec:' .. id
  local name, told = name_for(P, id, workflow, o.queue)
  if not name then return false end
  local fields = {'workflow', workflow, 'status', 'queued', 'run', 1, 'input', input, 'created', created,
    'retention', retention}
  if name ~= workflow then append(fields, 'index', name) end
  if told then append(fields, 'stream', 1) end
  for _, option in ipairs({'queue', 'origin', 'digest'}) do
    if o[option] then append(fields, option, o[option]) end
  end
  local from = math.max(now + (o.delay or 0), o.at or 0)
  local relations = relations_for(P, o, from)
  local limit = relations.limit
  if next(relations) then append(fields, 'relations', cmsgpack.pack(relations)) end
  local carried = #input + #(o.origin or '') <= 4096 and {'input', input} or {}
  if o.origin and #carried > 0 then append(carried, 'origin', o.origin) end

  local at_once = from <= now and not limit
  if at_once then
    append(fields, 'entry', add_entry(P, id, workflow, 1, o.queue, carried))
  else
    list(P, 'queued', name, created, id)
  end
  list(P, 'all', name, created, id)
  if o.timeout then redis.call('ZADD', P .. 'timers', relations.deadline, 't' .. id) end
  redis.call('HSET', exec, unpack(fields))
  if from > now then
    redis.call('ZADD', P .. 'timers', from, 'p' .. id)
  elseif limit then
    offer(P, id, name, created, workflow, 1, o.queue, relations, carried)
  end
  return true
end

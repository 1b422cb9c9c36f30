-- #include append
-- #include execution
-- #include record
-- An execution tree has one stream, the topic of its root. Most executions are never followed, so a root has none until
-- somebody follows it, or something happens that its journal does not say (see `tell`). Its history until then can be
-- told from its hash and its journal: its start, its steps that have succeeded, its successful end. The field `stream`
-- says that the stream exists. Idea: event sourcing's projections, which are built when they are first read.
local TOOK <const> = 5 -- ms, in a step's record
local RUNNING_STEP <const> = 2 -- in the field `running`, a list of steps: {version, step key, attempt, since when, ms}
local RUNNING_ATTEMPT <const> = 3
local RUNNING_SINCE <const> = 4
local NOTICE_MS <const> = 20 -- a step that takes longer has its start told when it starts
local AFTER_TOPIC_MS <const> = 60000 -- an execution that has ended is kept longer than its stream, by this
-- In what is to be told:
local AT <const> = 1 -- ms, with a fraction
local RANK <const> = 2 -- among what is told at that time
local STEP <const> = 3
local EVENTS_AT <const> = 4

-- These are the data of events, msgpack maps of two and of three.
local function workflow_start(workflow, id)
  return '\130' .. cmsgpack.pack('workflow_id', workflow, 'execution_id', id)
end

local function step_start(key, attempt)
  return '\130' .. cmsgpack.pack('step_key', key, 'attempt', attempt)
end

local function step_finish(key, attempt)
  return '\131' .. cmsgpack.pack('step_key', key, 'attempt', attempt, 'status', 'ok')
end

local function completed(P, id, output)
  local run = tonumber(redis.call('HGET', P .. 'exec:' .. id, 'run'))
  if run == 1 then return '\130' .. cmsgpack.pack('status', 'completed', 'result') .. output end
  return '\131' .. cmsgpack.pack('status', 'completed', 'run', run, 'result') .. output
end

-- told_before: whether one part of a history comes before another.
local function told_before(one, other)
  for position = AT, STEP do
    if one[position] ~= other[position] then return one[position] < other[position] end
  end
  return false
end

-- history: what has happened to a root so far: a list of {when in ms, rank, step key, events}, in order; and whether it
-- has ended. Nothing has happened before it has started, except an end.
local function history(P, id, started, journal)
  local workflow, status, finished, output, running = unpack(redis.call('HMGET', P .. 'exec:' .. id,
    'workflow', 'status', 'finished', 'output', 'running'))
  local told, attempts = {}, {}
  local function add(at, rank, key, ...) told[#told + 1] = {tonumber(at), rank, key, {...}} end
  if started then add(started, 1, '', 'workflow_start', workflow_start(workflow, id)) end
  for i = 1, #journal, 2 do
    local key, record = journal[i], read_record(journal[i + 1])
    if record[KIND] == 'step' and record[STATUS] == 'ok' then
      local at, attempt = record[#record], record[ATTEMPT]
      attempts[key] = attempt
      if record[TOOK] > NOTICE_MS then
        add(math.max(started or 0, at - record[TOOK]), 2, key, 'step_start', step_start(key, attempt))
        add(at, 3, key, 'step_finish', step_finish(key, attempt))
      else
        add(at, 3, key, 'step_start', step_start(key, attempt), 'step_finish', step_finish(key, attempt))
      end
    end
  end
  for _, one in ipairs(status == 'queued' and running and cmsgpack.unpack(running) or {}) do
    local key, attempt = one[RUNNING_STEP], one[RUNNING_ATTEMPT]
    if (attempts[key] or 0) < attempt then
      add(math.max(started or 0, one[RUNNING_SINCE]), 2, key, 'step_start', step_start(key, attempt))
    end
  end
  table.sort(told, told_before)
  if status == 'completed' then add(finished, 4, '', 'workflow_finish', completed(P, id, output)) end
  return told, not is_live(status)
end

local function create_empty(topic)
  redis.call('UNLINK', topic)
  redis.call('XDEL', topic, redis.call('XADD', topic, '0-1', '', ''))
end

-- tell_history: give a root that has no stream one with its history so far, if there is any. The ids of the events
-- follow from when they happened. `started`: since when its start counts as told. Returns whether there is any.
local function tell_history(P, id, started)
  local exec, topic = P .. 'exec:' .. id, P .. 'topic:' .. id
  redis.call('UNLINK', topic) -- of half a change
  local journal = redis.call('HGETALL', P .. 'journal:' .. id)
  local told, ended = history(P, id, tonumber(started), journal)
  local last, sequence = 0, 0
  for _, one in ipairs(told) do
    local at = math.floor(one[AT])
    if at > last then last, sequence = at, 0 else sequence = sequence + 1 end
    redis.call('XADD', topic, string.format('%.0f-%d', last, sequence), unpack(one[EVENTS_AT]))
  end
  for i = 1, #journal, 2 do -- its steps are told from now on
    if journal[i] == WRITER then redis.call('HDEL', P .. 'journal:' .. id, WRITER) end
  end
  local ttl = ended and redis.call('PTTL', exec) or 0
  if #told > 0 and ttl > 0 then redis.call('PEXPIRE', topic, math.max(1, ttl - AFTER_TOPIC_MS)) end
  return #told > 0
end

-- open_stream: give a root that has no stream one with its history so far; with `more`, the caller adds events at once.
-- `started`: since when its start counts as told, or false; without it, since it has started.
local function open_stream(P, id, started, more)
  local exec = P .. 'exec:' .. id
  if started == nil then started = redis.call('HGET', exec, 'started') end
  if not (started and tell_history(P, id, started)) then
    if more then redis.call('UNLINK', P .. 'topic:' .. id) else create_empty(P .. 'topic:' .. id) end
  end
  redis.call('HSET', exec, 'stream', 1)
end

-- tell: add events to the stream of an execution's tree. `is` has what was read of the execution before this script has
-- changed it, by the positions in execution.lua. Returns the entry's id.
local function tell(P, id, is, events)
  local root = root_of(id)
  if root == id and not is[EXEC_STREAM] then
    open_stream(P, id, is[EXEC_STARTED], true)
    is[EXEC_STREAM] = '1'
  end
  return redis.call('XADD', P .. 'topic:' .. root, '*', unpack(events))
end

-- is_told: whether the execution's tree has a stream: a child's always has.
local function is_told(id, is)
  return is[EXEC_STREAM] or root_of(id) ~= id
end

-- follow: give a root its stream, if it exists and has none. Returns whether it exists.
local function follow(P, id)
  local status, stream = unpack(redis.call('HMGET', P .. 'exec:' .. id, 'status', 'stream'))
  if status and not stream then open_stream(P, id) end
  return status
end

-- disown: no activation owns an execution any more, though it has not ended. Its journal does not say which of its
-- steps had started by then.
local function disown(P, id)
  local stream, running = unpack(redis.call('HMGET', P .. 'exec:' .. id, 'stream', 'running'))
  if not stream and root_of(id) == id then
    if running then open_stream(P, id) end
    redis.call('HDEL', P .. 'journal:' .. id, WRITER)
  end
  redis.call('HDEL', P .. 'exec:' .. id, 'owner', 'running')
end

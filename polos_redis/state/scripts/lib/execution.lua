-- The positions in what `fence` and ENDING_FIELDS read of an execution. `fence` reads the first five, and then what a
-- script asks for further.
local EXEC_STATUS <const> = 1
local EXEC_ENTRY <const> = 2
local EXEC_OWNER <const> = 3
local EXEC_STARTED <const> = 4
local EXEC_STREAM <const> = 5
local FURTHER <const> = 6
local EXEC_WORKFLOW <const> = 6
local EXEC_QUEUE <const> = 7
local EXEC_CREATED <const> = 8
local EXEC_RETENTION <const> = 9
local EXEC_WAITS <const> = 10
local EXEC_NOTIFY <const> = 11
local EXEC_EARLY <const> = 12
local EXEC_RELATIONS <const> = 13
local EXEC_ANSWERS <const> = 14
local EXEC_INDEX <const> = 15 -- left out where it is the workflow's
local EXEC_VERSION <const> = 16

-- The journal's field of this name has the direct writer: the activation that owns a root without a stream, once it has
-- written. It journals steps that succeed without a look at the execution. What ends its ownership, or creates the
-- stream, removes the field first. No step key has this byte, and no name of a result begins with it.
local WRITER = '\254'

-- is_live: whether an execution of this status has yet to end; false for one that does not exist.
local function is_live(status)
  return status == 'queued' or status == 'waiting' or status == 'stuck'
end

-- root_of: the id of the root execution; a child's id is `<root id>.<hash>`.
local function root_of(id)
  return string.match(id, '^[^.]*')
end

-- event_of: an event's type as it stands on the topic of the root, where a child's events carry the child's id.
local function event_of(id, root, kind)
  return id == root and kind or kind .. '\0' .. id
end

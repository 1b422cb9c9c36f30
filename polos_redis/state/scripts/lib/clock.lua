-- The server's clock, read once per script: `now_us` for index scores (unique within a partition), `now` in ms for
-- everything else.
local SECONDS <const> = 1
local MICROSECONDS <const> = 2
local time = redis.call('TIME')
local now_us = time[SECONDS] * 1000000 + time[MICROSECONDS]
local now = time[SECONDS] * 1000 + math.floor(time[MICROSECONDS] / 1000)

#!/bin/sh
# Start Redis with these arguments, in the image of the Redis project, and have it rewrite its log once it has loaded it.
#
# A crash may cut the log within a script's transaction. Redis loads such a log and leaves the transaction open in it;
# what is written from then on would be applied wrongly, or be lost, at the next restart. The rewrite ends that. It runs
# in the background. If Redis crashes before its end, Redis refuses to start once and then starts again by itself, under
# a restart policy.
(
  (
    while answer=$(redis-cli -e ping 2>&1) || true; do
      case $answer in
        PONG) exec redis-cli -e bgrewriteaof ;;
        *LOADING* | *"Could not connect"*) sleep 0.2 ;;
        *) echo "the log is not rewritten: $answer" >&2 && exit 1 ;;
      esac
    done
  ) &
)
exec docker-entrypoint.sh redis-server "$@"

"""Clients without asyncio across forks, signals and the exit of the interpreter."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from tests import ROOT
from tests.harness.user_programs import SETTINGS, run_program

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

# Python 3.12 and later warn of any fork in a process with several threads.
FORKS = """
import warnings
from polos_redis.sync import *
warnings.filterwarnings("ignore", message=".*multi-threaded.*", category=DeprecationWarning)
client = PolosClient()

def start():
    return client.invoke("nobody-serves-this").id

def count():
    return len(client.list_executions())
"""


def _forks(source: str) -> str:
    return textwrap.dedent(FORKS) + textwrap.dedent(source)


@SETTINGS
def test_nothing_needs_to_be_closed(options: tuple[str, ...], redis_url: str, namespace: str) -> None:
    source = """
        import threading
        handle = client.invoke("nobody-serves-this")
        stream = events.stream_topic(client, "topic")
        try:
            stream.next(timeout=0.01)
        except TimeoutError:
            pass
        threading.Thread(target=handle.result, daemon=True).start()
        print(handle.status())
    """
    assert run_program(_forks(source), redis_url, namespace, *options) == "queued\n"


@SETTINGS
def test_exit_handlers_may_call(options: tuple[str, ...], redis_url: str, namespace: str) -> None:
    source = """
        import atexit
        atexit.register(lambda: print("last", count()))
        start()
        print("end")
    """
    assert run_program(_forks(source), redis_url, namespace, *options) == "end\nlast 1\n"


@needs_fork
@SETTINGS
def test_a_client_works_after_a_fork(options: tuple[str, ...], redis_url: str, namespace: str) -> None:
    source = """
        start()
        if os.fork() == 0:
            start()
            if os.fork() == 0:
                start()
                print("grandchild", count(), flush=True)
                sys.exit()
            os.wait()
            print("child", count(), flush=True)
            sys.exit()
        pid, status = os.wait()
        print("parent", status, count())
    """
    found = run_program(_forks(source), redis_url, namespace, *options)
    assert found == "grandchild 3\nchild 3\nparent 0 3\n"


@needs_fork
def test_forks_while_threads_call(redis_url: str, namespace: str) -> None:
    """The lock of the first call and the turn of a stream may be held by threads that the child has not."""
    source = """
        import threading
        start()
        stream = events.stream_topic(client, "topic")
        waiting = threading.Event()

        def read():
            waiting.set()
            next(stream)

        def call():
            while True:
                count()

        for target in (read, call, call, call):
            threading.Thread(target=target, daemon=True).start()
        waiting.wait()
        children = []
        for number in range(20):
            pid = os.fork()
            if pid == 0:
                start()
                try:
                    stream.next(timeout=60)
                except polos_redis.RedisUnavailableError as error:
                    assert "opened before this process was forked" in str(error)
                    os._exit(0)
                os._exit(1)
            children.append(pid)
        print([os.waitpid(pid, 0)[1] for pid in children] == 20 * [0], count())
    """
    source = "import polos_redis\n" + _forks(source)
    assert run_program(source, redis_url, namespace) == "True 21\n"


@needs_fork
def test_processes_of_a_pool_share_a_client(redis_url: str, namespace: str) -> None:
    source = """
        import multiprocessing
        start()
        with multiprocessing.get_context("fork").Pool(4) as pool:
            ids = pool.map(lambda_free, range(40))
        print(len(set(ids)), count())
    """
    source = _forks("def lambda_free(number):\n    return start()\n") + textwrap.dedent(source)
    assert run_program(source, redis_url, namespace) == "40 41\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGALRM])
def test_a_signal_ends_a_call_that_waits(number: signal.Signals, redis_url: str, namespace: str) -> None:
    """Ctrl-C, and a time limit by an exception of a signal handler, as Celery's."""
    source = """
        import signal

        class TimeLimit(Exception):
            pass

        def limit(*_):
            raise TimeLimit

        signal.signal(signal.SIGALRM, limit)
        stream = events.stream_topic(client, "topic")
        for wait in (client.get_handle(start()).result, lambda: next(stream)):
            try:
                print("waiting", flush=True)
                wait()
            except (KeyboardInterrupt, TimeLimit) as error:
                print(type(error).__name__, count(), flush=True)
        events.publish(client, "topic", events.EventData("said", 1))
        print(next(stream).data)
    """
    environment = {**os.environ, "POLOS_REDIS_URL": redis_url, "POLOS_NAMESPACE": namespace}
    program = "import os, sys\n" + _forks(source)
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        name = {signal.SIGINT: "KeyboardInterrupt", signal.SIGALRM: "TimeLimit"}[number]
        for _ in range(2):
            assert process.stdout.readline() == "waiting\n"
            process.send_signal(number)
            assert process.stdout.readline() == f"{name} 1\n"
        assert process.stdout.read() == "1\n"
        assert process.stderr.read() == ""
    assert process.returncode == 0

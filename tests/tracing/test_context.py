"""The W3C trace context that an execution is started in, in any process, with or without an SDK."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import context, trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from polos_redis import PolosClient, sync, workflow
from polos_redis.state.origin import Origin
from polos_redis.tracing import TraceContext, current, is_traced, received
from polos_redis.workflow import InvokeOptions
from tests.harness.serving import calling

IDS = st.tuples(st.integers(0, 2**128 - 1), st.integers(0, 2**64 - 1), st.integers(0, 255))
STATES = st.sampled_from(["", "vendor=1", "a=b,c@d=e", "x=" + "y" * 600])
CALLER = TraceContext(f"00-{'ab' * 16}-{'cd' * 8}-01", "vendor=1")


@workflow(id="traced-start")
async def flow(ctx, input: int = 0):  # type: ignore[no-untyped-def]
    return input


def _placed(trace_id: int, span_id: int, flags: int, state: str = "") -> context.Context:
    found = SpanContext(trace_id, span_id, False, TraceFlags(flags), TraceState.from_header([state]))
    return trace.set_span_in_context(NonRecordingSpan(found), context.Context())


@given(IDS, STATES)
def test_the_active_span_is_passed_on_as_opentelemetry_does(ids: tuple[int, int, int], state: str) -> None:
    where, carrier = _placed(*ids, state), dict[str, str]()
    TraceContextTextMapPropagator().inject(carrier, where)
    token = context.attach(where)
    try:
        found = current()
        is_valid = trace.get_current_span().get_span_context().is_valid
        assert is_traced() == (found is not None) == is_valid
    finally:
        context.detach(token)
    if found is not None:
        assert found.traceparent == carrier["traceparent"]
        assert found.tracestate == ("" if len(state) > 512 else carrier.get("tracestate", ""))
        assert (found.trace_id, found.span_id, found.flags) == ids


@given(
    st.one_of(
        st.text(max_size=60),
        st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[0-9a-f]{2})?", fullmatch=True),
    ),
    st.text(max_size=20),
)
def test_headers_are_read_or_ignored_as_opentelemetry_does(parent: str, state: str) -> None:
    carrier = {"traceparent": parent, "tracestate": state}
    theirs = trace.get_current_span(
        TraceContextTextMapPropagator().extract(carrier, context.Context())
    ).get_span_context()
    ours = TraceContext.parse(parent, state)
    if parent == parent.strip():
        assert (ours is not None) == theirs.is_valid
    if ours is not None:
        assert (ours.trace_id, ours.span_id) == (theirs.trace_id, theirs.span_id)
        assert TraceContext.parse(*ours) == ours


def test_an_active_span_comes_before_the_context_of_a_request() -> None:
    assert current() is None
    with received(CALLER):
        assert current() == CALLER and is_traced()
        token = context.attach(_placed(7, 8, 1))
        try:
            assert current() == TraceContext(f"00-{7:032x}-{8:016x}-01")
        finally:
            context.detach(token)
    assert current() is None and not is_traced()


async def _origin(client: PolosClient, execution_id: str) -> Origin | None:
    store = await client.store()
    (packed,) = await store.executions.read_fields(execution_id, "origin")
    return None if packed is None else Origin.unpack(flow.id, packed)


@pytest.mark.parametrize("options", [{}, {"user_id": "ann"}, {"idempotency_key": "once"}], ids=str)
async def test_an_execution_is_stored_with_the_span_that_starts_it(
    redis_url: str, namespace: str, options: InvokeOptions
) -> None:
    async with PolosClient(redis_url, namespace) as client:
        plain = await client.invoke(flow, 1)
        token = context.attach(_placed(7, 8, 1, "vendor=1"))
        try:
            traced = await client.invoke(flow, 1, **options)
            if "idempotency_key" in options:  # another span repeats the same request
                context.attach(_placed(9, 9, 1))
                assert (await client.invoke(flow, 1, **options)).id == traced.id
        finally:
            context.detach(token)
        assert await _origin(client, plain.id) is None
        origin = await _origin(client, traced.id)
        assert origin is not None
        assert (origin.traceparent, origin.tracestate) == (f"00-{7:032x}-{8:016x}-01", "vendor=1")


async def test_the_client_without_asyncio_passes_it_on(redis_url: str, namespace: str) -> None:
    def start() -> str:
        context.attach(_placed(7, 8, 1))
        with sync.PolosClient(redis_url, namespace) as client:
            return client.invoke(flow, 1).id

    execution_id = await asyncio.to_thread(start)
    async with PolosClient(redis_url, namespace) as client:
        origin = await _origin(client, execution_id)
    assert origin is not None and origin.traceparent == f"00-{7:032x}-{8:016x}-01"


@pytest.mark.parametrize(
    ("traceparent", "stored"),
    [(CALLER.traceparent, CALLER.traceparent), ("00-0-0-00", None), ("x" * 5000, None), ("", None)],
    ids=["valid", "malformed", "long", "empty"],
)
async def test_rest_takes_it_from_the_headers(
    redis_url: str, namespace: str, traceparent: str, stored: str | None
) -> None:
    async with PolosClient(redis_url, namespace) as client, calling(client) as api:
        answer = await api.post(
            "/api/v1/executions",
            json={"workflow_id": flow.id, "input": 1},
            headers={"traceparent": traceparent, "tracestate": "vendor=1"},
        )
        assert answer.status_code == 201, answer.text
        origin = await _origin(client, answer.json()["id"])
        assert (origin and origin.traceparent) == stored
        assert stored is None or (origin is not None and origin.tracestate == "vendor=1")


def test_nothing_of_opentelemetry_is_imported_without_the_application() -> None:
    source = (
        "import sys, polos_redis, polos_redis.worker.worker, polos_redis.tracing as tracing\n"
        "assert tracing.configured_tracer() is None and tracing.current() is None\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

# A worker: `docker run -v ./app:/app IMAGE worker app.py`; a server: `docker run -p 8000:8000 IMAGE serve --host 0.0.0.0`
FROM python:3.13-slim

WORKDIR /src
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY polos_redis polos_redis
COPY cli cli
RUN pip install --no-cache-dir '.[agents,fast,metrics,server,webhook]' && rm -rf /src

RUN useradd --create-home --uid 10001 polos
USER polos
WORKDIR /app

# No shell in between: the worker itself gets the SIGTERM of `docker stop` and drains.
ENTRYPOINT ["polos"]
CMD ["--help"]

# The service without its servers: `docker compose up` adds Redis and PostgreSQL. Run alone, it uses
# its embedded server and SQLite, and keeps both in the volume. It asks for keys: the first one is
# made by `docker run --rm --volume limiter-data:/var/lib/limiter IMAGE keys create --role admin`.

FROM python:3.13-slim AS build
WORKDIR /src
RUN python -m venv /opt/limiter
# The dependencies change seldom and have a layer of their own, which a change to the code reuses.
COPY requirements.lock ./
RUN /opt/limiter/bin/pip install --no-cache-dir --requirement requirements.lock
COPY pyproject.toml requirements-dev.lock README.md LICENSE ./
COPY limiter ./limiter
COPY lua ./lua
# The build backend is pinned too; older pips read that from the one variable, newer ones from the other.
RUN export PIP_CONSTRAINT=requirements-dev.lock PIP_BUILD_CONSTRAINT=requirements-dev.lock \
    && /opt/limiter/bin/pip wheel --no-cache-dir --no-deps --wheel-dir /dist . \
    && /opt/limiter/bin/pip install --no-cache-dir --no-deps /dist/*.whl

FROM python:3.13-slim
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/limiter limiter
COPY --from=build /opt/limiter /opt/limiter
ENV PATH=/opt/limiter/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    LIMITER_HOST=0.0.0.0 \
    LIMITER_PORT=8080 \
    LIMITER_DATA_DIR=/var/lib/limiter
USER limiter
WORKDIR /var/lib/limiter
VOLUME /var/lib/limiter
EXPOSE 8080
STOPSIGNAL SIGTERM
# http.client, because urllib would send the call to a proxy that the container is configured with.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['LIMITER_PORT']), timeout=2); c.request('GET', '/healthz'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["limiter"]
CMD ["serve"]

# One image for instances, coordinators and the command line. `docker build -t logstore .`
#
# Nothing in it depends on the day of the build: packages come by hash from requirements.lock, byte code
# is made here (the root file system is read-only when it runs), and every file is of 1970.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS packages
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY pyproject.toml requirements.lock ./
COPY scripts/image-lock scripts/
RUN python3 -m venv /venv \
 && /venv/bin/python scripts/image-lock kafka etcd <requirements.lock >image.lock \
 && /venv/bin/pip install -q --no-compile --require-hashes --target /packages -r image.lock \
 && rm -rf /packages/bin /packages/pyarrow/src
# What no process of ours loads: test suites, headers, Arrow's RPC.
RUN cd /packages \
 && find . -depth -type d \( -name tests -o -name include -o -name __pycache__ \) -exec rm -rf {} + \
 && find . \( -name '*.pyi' -o -name '*.pxd' -o -name '*.pyx' -o -name '*.a' \) -delete \
 && find pyarrow -name '*flight*' -delete \
 && mkdir -p /out/opt && mv /packages /out/opt/packages \
 && python3 -m compileall -q --invalidation-mode unchecked-hash /out/opt/packages -s /out \
 && find /out -exec touch -h -d @0 {} +

FROM ${BASE} AS ours
COPY profiler /out/app/profiler
COPY sharder /out/app/sharder
COPY logstore /out/app/logstore
COPY coordinator /out/app/coordinator
COPY deploy/bin /out/usr/local/bin
RUN python3 -m compileall -q --invalidation-mode unchecked-hash /out/app -s /out \
 && mkdir /out/data && chown 10001:10001 /out/data && chmod 755 /out/usr/local/bin/* \
 && find /out -exec touch -h -d @0 {} +

FROM ${BASE}
COPY --from=packages /out/ /
COPY --from=ours /out/ /
ENV PYTHONPATH=/app:/opt/packages PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp
USER 10001:10001
WORKDIR /tmp
VOLUME /data
ENTRYPOINT ["logstore"]
CMD ["--help"]

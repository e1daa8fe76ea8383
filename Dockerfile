# One image for API and worker. Everything is pinned to an exact version; tests/unit/test_compose_file.py holds the pins
# against requirements.txt, the Makefile and what is copied.

# The CLI comes from npm as one native program; Node.js is needed to fetch it, and not to run it.
FROM node:22.21.0-bookworm-slim AS cli
ARG CLI_VERSION=2.1.329
RUN npm install --prefix /cli --no-audit --no-fund --loglevel=error "@anthropic-ai/claude-code@${CLI_VERSION}" \
    && cp -L /cli/node_modules/.bin/claude /claude \
    && /claude --version

# Wheels only: what would need a compiler fails here.
FROM python:3.11.14-slim-bookworm AS packages
COPY requirements.txt .
RUN python -m venv /opt/heartline \
    && /opt/heartline/bin/pip install --no-cache-dir --only-binary :all: -r requirements.txt \
    && /opt/heartline/bin/pip uninstall --yes setuptools pip

FROM python:3.11.14-slim-bookworm
# bubblewrap confines the runs; tini reaps what they leave, and passes signals on. What your agents' commands need
# besides (git, a compiler) goes into an image of your own that begins with FROM this one.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends bubblewrap tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 heartline \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/heartline/home --shell /usr/sbin/nologin heartline \
    && install -d -m 700 -o heartline -g heartline /var/lib/heartline /var/lib/heartline/state /var/lib/heartline/home
COPY --from=cli /claude /usr/local/bin/claude
COPY --from=packages /opt/heartline /opt/heartline
WORKDIR /srv/heartline
COPY models.yaml ./
COPY deploy/with-secrets.sh deploy/
COPY core core
COPY app app
COPY worker worker
RUN /opt/heartline/bin/python -m compileall -q core app worker
ENV PATH=/opt/heartline/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/var/lib/heartline/home \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    DISABLE_AUTOUPDATER=1 \
    HEARTLINE_BIND=0.0.0.0:8080 \
    HEARTLINE_STATE_DIR=/var/lib/heartline/state
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
# Of the API; the worker's is in docker-compose.yml.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=4)"]
ENTRYPOINT ["tini", "--", "/srv/heartline/deploy/with-secrets.sh"]
CMD ["python", "-m", "app"]

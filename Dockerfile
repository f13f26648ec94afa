# The project in the environment of uv.lock, run by an unprivileged user.
#
#   uvx nox -s image                    cpu: a slim Python and everything from the lock
#   uvx nox -s image -- --project NAME  cpu, with only the dependencies of one project
#   uvx nox -s image -- --target gpu    gpu: NVIDIA's image, which includes torch
#
# docs/image.md describes the contents. Each base is a separate stage pinned by tag and digest,
# because Dependabot does not update a FROM that uses an argument. CPU_BASE and GPU_BASE replace a
# base, for example with a mirror's.
ARG CPU_BASE=cpu-base
ARG GPU_BASE=gpu-base

FROM python:3.12-slim-bookworm@sha256:782412e85d0f0984994c290652577d4018aff08145c85b262bb63dc0c7522254 AS cpu-base

FROM nvcr.io/nvidia/pytorch:26.05-py3@sha256:222d8b18e671be5c3ef91cb41727a2572a0b23f59ded6c39f373a96946f6f2ba AS gpu-base

# uv is a single file that runs on either base. The secret passes the machine's settings, such as a
# mirror's address and password, to one command and leaves them in no layer.
FROM ${CPU_BASE} AS uv
COPY docker/uv.txt .
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    python3 -m pip install --no-cache-dir --require-hashes --only-binary=:all: --target=/uv -r uv.txt

# Keep only the files that the lock depends on, and an empty module for each package: other source
# changes do not invalidate the layers that copy from this stage.
FROM ${CPU_BASE} AS packages
WORKDIR /packages
COPY src src
RUN find src -type f ! -path 'src/*/pyproject.toml' ! -path 'src/*/LICENSE' -delete && \
    find src -mindepth 2 -type d -empty -delete && \
    for folder in src/*; do touch "$folder/__init__.py"; done

FROM ${CPU_BASE} AS cpu
COPY --from=uv /uv/bin/uv /uv/bin/uvx /usr/local/bin/
# Sessions list files with git, and without git GitHub's checkout action creates no repository.
RUN command -v git || { apt-get update && apt-get install --yes --no-install-recommends git && \
    rm -rf /var/lib/apt/lists/*; }
# 1001 is the user id of GitHub's runner. Containers mount the runner's folders, and other users
# cannot write to them.
RUN useradd --uid 1001 --create-home app && install -d -o app -g app /app /opt/uv-cache
# The cache stays in the image as hard links to the same files, so that a job in the image can
# create an environment for another checkout without downloads.
ENV PATH=/app/.nox/default/bin:$PATH UV_CACHE_DIR=/opt/uv-cache UV_PYTHON_DOWNLOADS=never
WORKDIR /app
USER 1001
# Copy only the inputs of the environment, so that other changes do not invalidate its layer, by far
# the largest. The packages are installed in editable mode.
COPY --chown=1001:1001 pyproject.toml uv.lock ./
COPY --from=packages --chown=1001:1001 /packages/src src
COPY --chown=1001:1001 tasks/__init__.py tasks/display.py tasks/errors.py tasks/git.py tasks/project.py tasks/
COPY --chown=1001:1001 tasks/environments/__init__.py tasks/environments/environment.py tasks/environments/installed.py tasks/environments/interpreters.py tasks/environments/uv.py tasks/environments/
COPY --chown=1001:1001 tasks/evidence/__init__.py tasks/evidence/inputs.py tasks/evidence/manifest.py tasks/evidence/
COPY --chown=1001:1001 tasks/evidence/observer/__init__.py tasks/evidence/observer/sitecustomize.py tasks/evidence/observer/
# The project to install; empty for all packages.
ARG PROJECT=
ENV PROJECT=$PROJECT
RUN --mount=type=secret,id=uv.toml,target=/etc/uv/uv.toml,mode=0444 \
    python3 -c "import os; from tasks.environments import environment; \
    os.symlink(environment.prepare_image(os.environ['PROJECT']), '.nox/default')"
# A job's workspace is on another file system, where hard links to the cache are impossible and uv
# would copy torch's gigabytes. Symbolic links are safe: the cache lives as long as the container.
ENV UV_LINK_MODE=symlink
COPY --chown=1001:1001 . .
HEALTHCHECK --interval=5m --timeout=1m --start-period=1m CMD ["python", "-c", "import training.runs"]
CMD ["sh", "-c", "session=smoke; [ -z \"$PROJECT\" ] || session=\"isolated($PROJECT)\"; exec nox -s \"$session\""]

FROM ${GPU_BASE} AS gpu
COPY --from=uv /uv/bin/uv /usr/local/bin/uv
RUN useradd --uid 1001 --create-home app && install -d -o app -g app /app /opt/environment
ENV PATH=/opt/environment/bin:$PATH UV_PYTHON_DOWNLOADS=never
WORKDIR /app
USER 1001
COPY --chown=1001:1001 pyproject.toml uv.lock ./
COPY --from=packages --chown=1001:1001 /packages/src src
# torch and the packages that only torch needs come from the base; the rest comes from the lock. uv
# ignores the base's pip settings.
RUN --mount=type=secret,id=uv.toml,target=/etc/uv/uv.toml,mode=0444 \
    uv export --frozen --quiet --no-emit-workspace --all-packages --no-default-groups --group build \
    --group pytest --group test --extra mlflow --extra supply --extra torch-2-15 --prune torch --output-file /tmp/requirements.txt && \
    uv venv --quiet --system-site-packages --python "$(command -v python3)" --clear /opt/environment && \
    uv pip sync --no-cache --require-hashes --no-build --compile-bytecode \
    --python /opt/environment/bin/python /tmp/requirements.txt
COPY --chown=1001:1001 . .
ENV PYTHONPATH=/app/src
HEALTHCHECK --interval=5m --timeout=1m --start-period=1m CMD ["python", "-c", "import torch, training.runs"]
CMD ["nox", "--no-venv", "-s", "gpu-test"]

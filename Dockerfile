# epochal in a container: `docker build -t epochal .` for the CPU, `docker build --build-arg TORCH=cu126 -t epochal .` for
# NVIDIA GPUs. docs/installing.md says how it is run.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
# gcc and the C library's headers for the compiled part, git for the commit that `epochal --version` tells.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc git libc6-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY constraints.txt .
RUN python -m venv /opt/epochal \
 && /opt/epochal/bin/pip install --no-cache-dir --disable-pip-version-check --constraint constraints.txt uv setuptools
COPY . .
RUN /opt/epochal/bin/uv build --no-build-isolation --python /opt/epochal/bin/python --wheel --out-dir /dist
# The pinned torch of this platform: cpu, or a CUDA version as uv names it.
ARG TORCH=cpu
ARG EXTRAS=s3,service
RUN /opt/epochal/bin/uv pip install --no-cache --python /opt/epochal/bin/python --constraint constraints.txt \
      --torch-backend "${TORCH}" "epochal[${EXTRAS}] @ file://$(ls /dist/*.whl)"

FROM python:${PYTHON}-slim
COPY --from=build /opt/epochal /opt/epochal
ENV PATH=/opt/epochal/bin:${PATH}
RUN useradd --uid 1000 --create-home epochal && install --directory --owner epochal /home/epochal/work
USER 1000
WORKDIR /home/epochal/work
ENTRYPOINT ["epochal"]
CMD ["--help"]

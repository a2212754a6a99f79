# Worker image for Beam runners (Dataflow, Flink and Spark with --environment_type=DOCKER or a worker pool).
#
#     docker build --platform linux/amd64 -f docker/worker.Dockerfile -t IMAGE .
#
# PYTHON and BEAM must be those of the machine that submits; a worker whose packages differ from the plan's refuses to work.
ARG PYTHON=3.11
ARG BEAM=2.77.0
# By tag here, by digest where docker/images.lock is given: make pin-images.
ARG PYTHON_IMAGE=python:${PYTHON}-slim
ARG BEAM_IMAGE=apache/beam_python${PYTHON}_sdk:${BEAM}

FROM ${BEAM_IMAGE} AS beam

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
COPY docker/worker.lock setup.py pyproject.toml README.md LICENSE ./
COPY maskmill maskmill
COPY schemas schemas
COPY masks masks
COPY pipelines pipelines
COPY training training
RUN python -m venv /opt/maskmill \
 && /opt/maskmill/bin/pip install --no-cache-dir --require-hashes -r worker.lock \
 && /opt/maskmill/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM ${PYTHON_IMAGE}
# The launcher that every Beam worker container starts with. It must not make an environment of its own: ours has it all.
COPY --from=beam /opt/apache/beam /opt/apache/beam
COPY --from=build /opt/maskmill /opt/maskmill
ENV PATH=/opt/maskmill/bin:$PATH \
    RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1 \
    PYTHONUNBUFFERED=1
# Compiled for a fixed processor (AVX2, any cloud machine since 2015), not for the one that builds the image: code cached for
# another processor would be compiled again by every worker.
ENV NUMBA_CPU_NAME=x86-64-v3 \
    NUMBA_CPU_FEATURES="" \
    NUMBA_CACHE_DIR=/opt/kernels
# No USER: Beam's launcher writes what was staged with a job into a folder that Dataflow mounts, and root owns. Where an engine
# starts workers as somebody else (docker run --user, Kubernetes), kernels that only root may write to would not be used.
RUN maskmill warmup \
 && chmod -R a+rwX /opt/kernels
WORKDIR /tmp
ENTRYPOINT ["/opt/apache/beam/boot"]

# Trainer image.
#
#     docker build --platform linux/amd64 -f docker/trainer.Dockerfile --build-arg ACCELERATOR=cuda12 -t IMAGE .
#
# ACCELERATOR is an extra of JAX: cuda12 (the CUDA libraries come as wheels; the host needs NVIDIA's driver and container
# toolkit), cuda13, or tpu (run it on the TPU machine itself, with --privileged --net=host). Its libraries are what is not
# locked: they depend on it.
ARG PYTHON=3.11
# By tag here, by digest where docker/images.lock is given: make pin-images.
ARG PYTHON_IMAGE=python:${PYTHON}-slim

FROM ${PYTHON_IMAGE} AS build
ARG ACCELERATOR=cuda12
WORKDIR /src
COPY constraints.txt docker/trainer.lock setup.py pyproject.toml README.md LICENSE ./
COPY maskmill maskmill
COPY schemas schemas
COPY masks masks
COPY pipelines pipelines
COPY training training
RUN python -m venv /opt/maskmill \
 && /opt/maskmill/bin/pip install --no-cache-dir --require-hashes -r trainer.lock \
 && /opt/maskmill/bin/pip install --no-cache-dir --no-deps --no-build-isolation . \
 && /opt/maskmill/bin/pip install --no-cache-dir -c constraints.txt "jax[${ACCELERATOR}]"

FROM ${PYTHON_IMAGE}
COPY --from=build /opt/maskmill /opt/maskmill
ENV PATH=/opt/maskmill/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    TF_CPP_MIN_LOG_LEVEL=2
RUN useradd --create-home --uid 1000 miller
USER miller
WORKDIR /home/miller
ENTRYPOINT ["detcon"]

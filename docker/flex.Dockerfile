# Launcher image of the Flex Template: the worker image with Google's launcher in it.
#
#     docker build --platform linux/amd64 -f docker/flex.Dockerfile --build-arg WORKER=IMAGE -t IMAGE-flex .
ARG WORKER
ARG LAUNCHER_IMAGE=gcr.io/dataflow-templates-base/python311-template-launcher-base:latest
FROM ${LAUNCHER_IMAGE} AS launcher
FROM ${WORKER}
COPY --from=launcher /opt/google/dataflow/python_template_launcher /opt/google/dataflow/python_template_launcher
COPY docker/flex_main.py /opt/flex/flex_main.py
ENV FLEX_TEMPLATE_PYTHON_PY_FILE=/opt/flex/flex_main.py
ENTRYPOINT ["/opt/google/dataflow/python_template_launcher"]

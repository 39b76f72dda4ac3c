# The service `xsap serve` of an index, on the CPU, without access to the internet. See docs/service.md.
#   docker build --tag xsap .
#   docker run --rm --read-only --tmpfs /tmp --publish 127.0.0.1:8000:8000 --volume "$PWD/demo:/data:ro" xsap --index /data/index --model /data/trained/model
FROM python:3.11-slim AS build
WORKDIR /build
COPY constraints.txt ./
RUN python -m venv /opt/xsap && \
    torch=$(grep '^torch==' constraints.txt) && \
    /opt/xsap/bin/pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu "$torch"
COPY pyproject.toml README.md LICENSE ./
COPY configs ./configs
COPY data_prep ./data_prep
COPY xsap ./xsap
RUN /opt/xsap/bin/pip install --no-cache-dir --constraint constraints.txt ".[serve]"

FROM python:3.11-slim
RUN useradd --create-home --uid 10001 xsap
COPY --from=build /opt/xsap /opt/xsap
ENV PATH=/opt/xsap/bin:$PATH HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1
USER xsap
WORKDIR /data
EXPOSE 8000
# the port opens when the model is loaded; an index of millions of names takes its time
HEALTHCHECK --interval=30s --timeout=5s --start-period=180s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["xsap", "serve", "--host", "0.0.0.0", "--port", "8000"]

# ropo on a CPU: docker build -t ropo . ; docker run --rm -v "$PWD:/workspace" ropo train --model M --data D --output DIR
FROM python:3.12-slim
# A C compiler for the CPU kernels, which are compiled for the processor at hand at first use.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN pip install --no-cache-dir torch --index-url https://download.pytorch.org/whl/cpu \
    && pip install --no-cache-dir "/src[gguf,evaluation,report]" && rm -rf /src
ENV HF_HOME=/workspace/.cache/huggingface XDG_CACHE_HOME=/workspace/.cache HF_HUB_DISABLE_TELEMETRY=1
WORKDIR /workspace
ENTRYPOINT ["ropo"]
CMD ["--help"]

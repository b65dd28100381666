# The environment of a GPU worker (docs/worker.md): CUDA comes with TensorFlow's packages, the driver
# from the host, and the clone is mounted over /worker.
FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends git openssh-client make \
  && rm -rf /var/lib/apt/lists/* \
  && git config --system --add safe.directory /worker
ENV MAKEFLAGS=VENV=/opt/venv PIP_NO_CACHE_DIR=1 \
  NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /worker
COPY Makefile README.md pyproject.toml requirements.lock ./
# The packages' places are enough: their code comes with the clone, and an edit builds nothing again.
RUN mkdir -p pets stages/records && make setup EXTRAS=gpu
CMD ["make", "worker"]

# The page and the HTTP API on a CPU:
#   docker build -t rifenet . && docker run --rm -p 8000:8000 -e RIFENET_TOKEN=at-least-12-characters rifenet
FROM python:3.13-slim

# The CPU build of torch is a tenth of the default one; everything else comes from the package index.
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu "torch>=2.11"

COPY pyproject.toml README.md LICENSE THIRD_PARTY_NOTICES /source/
COPY src /source/src
RUN pip install --no-cache-dir "/source[serve]" && rm -r /source

RUN useradd --create-home rifenet
USER rifenet
WORKDIR /home/rifenet

EXPOSE 8000
HEALTHCHECK CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/api/health', timeout=5)"]

# It listens for other machines, so it does not start without RIFENET_TOKEN.
ENTRYPOINT ["rifenet", "serve", "--host", "0.0.0.0", "--port", "8000"]

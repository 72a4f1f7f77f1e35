# The image of outboxd:
#   docker build --build-arg OUTBOXD_COMMIT=$(git rev-parse --short=12 HEAD) -t outboxd:0.1.0 .
# With a program that is built already, on the same release of Debian:
#   docker build --build-arg PROGRAM=prebuilt --build-arg PREBUILT=outboxd -t outboxd:0.1.0 DIRECTORY_OF_THE_PROGRAM -f Dockerfile
ARG RUST=rust:1.95-bookworm
ARG DEBIAN=debian:12-slim
# The stage that the program comes from: `built` compiles the sources, `prebuilt` takes a file of the context.
ARG PROGRAM=built

FROM ${RUST} AS built
# cmake builds librdkafka.
RUN apt-get update \
    && apt-get install -y --no-install-recommends cmake libssl-dev zlib1g-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# Sources come without their history, so the build is told the commit.
ARG OUTBOXD_COMMIT=unknown
# The testbed has no part in the image, and neither have the tools of packaging: they are members of the workspace.
RUN OUTBOXD_COMMIT=${OUTBOXD_COMMIT} cargo build --release --locked --package outboxd --bin outboxd \
    && strip -o /outboxd target/release/outboxd

FROM ${DEBIAN} AS prebuilt
ARG PREBUILT=outboxd
COPY ${PREBUILT} /outboxd

FROM ${PROGRAM} AS program

FROM ${DEBIAN}
# The base of an offline build has them already, and then nothing is fetched.
RUN dpkg -s libssl3 zlib1g ca-certificates >/dev/null 2>&1 || { \
        apt-get update \
        && apt-get install -y --no-install-recommends libssl3 zlib1g ca-certificates \
        && rm -rf /var/lib/apt/lists/*; }
COPY --from=program --chmod=755 /outboxd /usr/bin/outboxd
# A number, so that Kubernetes sees that it is not root. It owns nothing, and writes nothing: the root may be read-only.
USER 10001:10001
# verify sorts large tables in files of /tmp: give it a volume where the root is read-only.
EXPOSE 9464
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/outboxd"]
CMD ["run", "--config", "/etc/outboxd/outboxd.toml"]

# The server `catchall` and its load program `create-events`, in one image of little more than the
# two. With its data in /data, on port 7000:
#
#   docker build -t catchall .
#   docker run --rm -p 127.0.0.1:7000:7000 -v catchall-data:/data catchall
#   docker run --rm --network host --entrypoint create-events catchall --help

# The version is the rust-version of Cargo.toml.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
# The caches keep crates and what was compiled from one build to the next, so that a change of the
# sources compiles nothing else. They are no part of the image: the programs are copied out.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --locked --release --package catchall --package create-events \
    && install -D --target-directory /image/bin target/release/catchall target/release/create-events \
    && mkdir /image/data

# The C library, root certificates (for a database over TLS) and no shell. Of the same Debian as
# above: a program does not run on an older C library than it was linked with.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /image/bin/ /usr/local/bin/
# A new volume takes its owner from here: the user `nonroot` of the image, by number, so that
# Kubernetes can see that it is not root.
COPY --from=build --chown=65532:65532 /image/data /data
USER 65532:65532

# Everything else is set at run time, in the same way. A port inside a container is only seen
# outside when it is published.
ENV CATCHALL__LISTEN=0.0.0.0:7000 \
    CATCHALL__STORE__EMBEDDED__PATH=/data
VOLUME /data
EXPOSE 7000

# No HEALTHCHECK: nothing in the image could make the request. Have the orchestrator ask /livez
# and /readyz. SIGTERM drains; give it longer than http.drain_timeout_ms (30 s) before SIGKILL.
ENTRYPOINT ["catchall"]
CMD ["serve"]

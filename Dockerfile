# One image with all binaries of eTicket: `docker build --tag eticket .`. The command selects the server, such as `eticket-ticket`.

FROM rust:1.95.0-bookworm AS chef
# The image has this toolchain. Without the variable, rustup would also download the components that rust-toolchain.toml lists.
ENV RUSTUP_TOOLCHAIN=1.95.0
# Only these packages, and the same for both builds: cargo chooses the features of dependencies by the packages that it builds.
ENV PACKAGES="--package eticket --package eticket-ticket --package eticket-reservation \
    --package eticket-pricing --package eticket-query --package eticket-gateway"
RUN cargo install --locked cargo-chef --version 0.1.78
WORKDIR /source

# The recipe contains only manifests and the lock file, so it stays the same when only sources change.
FROM chef AS plan
COPY . .
RUN cargo chef prepare --recipe-path recipe.json

FROM chef AS build
COPY --from=plan /source/recipe.json .
# Dependencies have a layer of their own, which Docker reuses until a manifest or the lock file changes.
RUN cargo chef cook --profile dist --locked --bins $PACKAGES --recipe-path recipe.json
COPY . .
RUN cargo build --profile dist --locked --bins $PACKAGES \
    && mkdir /binaries \
    && cp target/dist/eticket target/dist/eticket-ticket target/dist/eticket-reservation \
          target/dist/eticket-pricing target/dist/eticket-query target/dist/eticket-gateway /binaries/

FROM debian:bookworm-slim
RUN useradd --system --uid 10001 --home-dir /data eticket && install --directory --owner=eticket --group=eticket /data
COPY --from=build /binaries/ /usr/local/bin/
USER 10001
WORKDIR /data
CMD ["eticket"]

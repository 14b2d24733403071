# One image with all binaries of eTicket: `docker build --tag eticket .`. The command selects the server, such as `eticket-ticket`.
FROM rust:1.95.0-bookworm AS build
WORKDIR /source
COPY . .
RUN cargo build --release --locked --workspace --bins --exclude xtask \
    && mkdir /binaries \
    && cp target/release/eticket target/release/eticket-ticket target/release/eticket-reservation \
          target/release/eticket-pricing target/release/eticket-query target/release/eticket-gateway /binaries/

FROM debian:bookworm-slim
RUN useradd --system --uid 10001 --home-dir /data eticket && install --directory --owner=eticket --group=eticket /data
COPY --from=build /binaries/ /usr/local/bin/
USER 10001
WORKDIR /data
CMD ["eticket"]

# The image of eTicket: `docker build --tag eticket .`. The command selects the server, such as `eticket-ticket`. Without a container
# engine, `cargo xtask image` makes the same image.

FROM rust:1.95.0-bookworm AS chef
# The image has this toolchain. Without the variable, rustup would also download the components that rust-toolchain.toml lists.
ENV RUSTUP_TOOLCHAIN=1.95.0
RUN cargo install --locked cargo-chef --version 0.1.78
WORKDIR /source

# The recipe contains only manifests and the lock file, so it stays the same when only sources change.
FROM chef AS plan
COPY . .
RUN cargo chef prepare --recipe-path recipe.json

FROM chef AS build
COPY --from=plan /source/recipe.json .
# Dependencies have a layer of their own, which Docker reuses until a manifest or the lock file changes. The package is the same for both
# builds: cargo chooses the features of dependencies by the packages that it builds.
RUN cargo chef cook --profile dist --locked --package eticket --recipe-path recipe.json
COPY . .
RUN cargo build --profile dist --locked --package eticket
# One program under the names of all servers, and the libraries that it needs.
RUN mkdir --parents /image/usr/local/bin /image/data /image/tmp \
    && cp target/dist/eticket /image/usr/local/bin/ \
    && for server in gateway pricing query reservation ticket; do ln --symbolic eticket /image/usr/local/bin/eticket-$server; done \
    && for file in $(ldd target/dist/eticket | grep --only-matching '/[^ ]*') /etc/ssl/certs/ca-certificates.crt; do \
        cp --dereference --parents $file /image; done \
    && echo 'eticket:x:10001:10001:eticket:/data:/nonexistent' > /image/etc/passwd \
    && echo 'eticket:x:10001:' > /image/etc/group \
    && echo 'hosts: files dns' > /image/etc/nsswitch.conf \
    && chown 10001:10001 /image/data /image/tmp

FROM scratch
COPY --from=build /image/ /
ENV PATH=/usr/local/bin
USER 10001
WORKDIR /data
CMD ["eticket"]

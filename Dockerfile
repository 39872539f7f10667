# syntax=docker/dockerfile:1
# The images of `make image`, for those who build with Docker: docker build --target operator|sidecar|gateway .
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
ARG TARGETARCH TAG=dev
WORKDIR /src
RUN --mount=type=bind,target=. --mount=type=cache,target=/root/.cache/go-build --mount=type=cache,target=/go/pkg/mod \
    CGO_ENABLED=0 GOARCH=$TARGETARCH go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$TAG" -o /out/ ./cmd/...
# Permitted, not effective: they take NET_ADMIN where their container has it, and start without it elsewhere.
RUN apt-get update && apt-get install -y --no-install-recommends libcap2-bin && setcap cap_net_admin=p /out/sidecar && setcap cap_net_admin=p /out/gateway

FROM scratch AS base
LABEL org.opencontainers.image.source=https://github.com/tenantwire/tenantwire org.opencontainers.image.licenses=Apache-2.0
USER 65532:65532

FROM base AS operator
COPY --from=build /out/operator /operator
ENTRYPOINT ["/operator"]

FROM base AS gateway
COPY --from=build /out/gateway /gateway
ENTRYPOINT ["/gateway"]

FROM base AS sidecar
COPY --from=build /out/sidecar /sidecar
ENTRYPOINT ["/sidecar"]

# The image of the plugin:
#
#   docker buildx build --platform linux/amd64,linux/arm64 --build-arg VERSION=v2.0.0 -t ghcr.io/datera-csi/datera-csi:v2.0.0 .
#
# `make image` builds the same files without a container engine; both use hack/image, which
# picks them out of Debian's packages. The base is only where that runs, nothing of it is in the
# image. It is pinned by tag; a release builds with --build-arg BASE=golang@sha256:….
ARG BASE=golang:1.26.8-bookworm
FROM --platform=$BUILDPLATFORM ${BASE} AS build
RUN apt-get update && apt-get install -y --no-install-recommends mmdebstrap
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETARCH
ARG VERSION=unknown
ARG COMMIT=unknown
RUN go run ./hack/image -arch=${TARGETARCH} -version=${VERSION} -commit=${COMMIT} -root=/image

FROM scratch
ARG VERSION=unknown
ARG COMMIT=unknown
COPY --from=build /image /
LABEL org.opencontainers.image.title="datera-csi" \
      org.opencontainers.image.description="CSI driver for Datera block storage" \
      org.opencontainers.image.source="https://github.com/datera-csi/datera-csi" \
      org.opencontainers.image.licenses="Apache-2.0 AND GPL-2.0-or-later AND LGPL-2.1-or-later" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}"
ENV PATH=/usr/sbin:/usr/bin
USER 65532:65532
ENTRYPOINT ["/usr/bin/datera-csi"]

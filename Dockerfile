# syntax=docker/dockerfile:1
#
# One image holds both programs, so that a closed network mirrors one image.
# "make image" writes the same image without a container engine.
#
#   docker build -t plugin-server-operator .
#   docker run -p 8080:8080 -v "$PWD/plugins:/plugins" plugin-server-operator \
#     local --listen=:8080 /plugins

FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY api api
COPY cmd cmd
COPY controllers controllers
COPY internal internal
COPY hack/image/build.sh hack/image/build.sh
ARG TARGETOS
ARG TARGETARCH
ARG VERSION=dev
RUN GOOS=$TARGETOS GOARCH=$TARGETARCH VERSION=$VERSION hack/image/build.sh /out

FROM scratch
COPY --from=build /out/operator /out/plugin-server /
USER 65532:65532
ENTRYPOINT ["/plugin-server"]

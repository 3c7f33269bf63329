# make demo    build, then watch attackers being banned in private namespaces
# make test    everything that must pass: formatting, vet, staticcheck, unit, kernel and end-to-end tests, short fuzzing
# make bench   measure, beside fail2ban and sshguard where installed
# make accept  the life of an installation in a booted Debian 12: install, attack, reboot, upgrade, uninstall
# Each installs the Debian packages it needs. All need root: the tests make their own network namespaces.
#
# make cloud   build mefcloud, the community server, which runs on a machine of its own
# make install, make uninstall: onto this system, below PREFIX (/usr/local), or into DESTDIR; starts nothing
# make dist    tarballs for amd64 and arm64 in bin/dist, whose installer needs no Go

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
export CGO_ENABLED = 0

PREFIX = /usr/local
export PREFIX DESTDIR

.PHONY: build cloud demo test check unit race integration fuzz bench accept install uninstall dist clean

build:
	scripts/build '$(VERSION)' bin/

cloud:
	go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/ ./cmd/mefcloud

demo: build
	@scripts/deps demo
	@go build -o bin/ ./cmd/demo
	@bin/demo -mefdaemon bin/mefdaemon -mefctl bin/mefctl

test:
	scripts/deps test
	$(MAKE) check race integration fuzz

check:
	@test -z "$$(gofmt -l .)" || { gofmt -l . ; echo "gofmt: run gofmt -w on these"; exit 1; }
	go vet -tags integration ./...
	go tool staticcheck -tags integration ./...

# What needs neither root nor packages.
unit:
	go test -shuffle=on ./...

# The packages with goroutines of their own, under the race detector. It needs cgo and gcc. (scripts/gotest is go test that names what
# failed once more at the end.)
race:
	CGO_ENABLED=1 go run ./scripts/gotest -race -short -shuffle=on ./internal/cloud/limit ./internal/cloud/server ./internal/confirm ./internal/control ./internal/daemon ./internal/dnsbl ./internal/duty ./internal/enforce ./internal/enforce/kernel ./internal/eventlog ./internal/history ./internal/hostwatch ./internal/inotify ./internal/lists/... ./internal/notify ./internal/owner ./internal/page/... ./internal/pagechild/... ./internal/pipeline ./internal/run ./internal/source/... ./internal/store

# Everything. -p 1, because tests with the kernel and real daemons want the whole machine's attention.
integration:
	go run ./scripts/gotest -tags integration -shuffle=on -p 1 -timeout 1h ./...

fuzz:
	scripts/fuzz 2000x

bench: build cloud
	scripts/deps bench
	go run ./bench

accept: dist
	scripts/deps accept
	go build -o bin/ ./packaging/accept
	bin/accept bin/dist/mef-$(VERSION)-linux-$$(go env GOHOSTARCH).tar.gz

# After "make", "sudo make install" needs no Go, which root often lacks.
install:
	@if command -v go >/dev/null; then $(MAKE) build; fi
	@[ -x bin/mef ] || { echo "make install: run make first, as a user who has Go"; exit 1; }
	packaging/stage bin bin bin/stage
	bin/stage/install

# PURGE=--purge removes configuration and state as well.
uninstall:
	packaging/uninstall $(PURGE)

dist:
	packaging/dist $(VERSION) bin/dist

clean:
	rm -rf bin

// Command sidecar-prof is the sidecar's data plane with net/http/pprof on a unix socket, for profiles in the benchmark. The
// sidecar itself ships no profiler.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	_ "net/http/pprof"
	"os"
	"os/signal"
	"syscall"

	"github.com/tenantwire/tenantwire/sidecar/agent"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "sidecar-prof:", err)
		os.Exit(1)
	}
}

func run() error {
	config := flag.String("config", "", "static file")
	socket := flag.String("pprof", "", "path of the unix socket to serve profiles on")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	l, err := net.Listen("unix", *socket)
	if err != nil {
		return err
	}
	go func() { _ = http.Serve(l, nil) }()
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	return agent.RunStatic(ctx, agent.StaticOptions{Path: *config, OwnProcess: true, Log: log})
}

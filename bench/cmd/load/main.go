// Command load makes traffic and prints what came of it as JSON. The benchmark starts it in the namespaces; see package load.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tenantwire/tenantwire/bench/load"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := command(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		return 1
	}
	return 0
}

const usage = "load serve|streams|requests|connections|datagrams|hold [flags]"

func command(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("usage: %s", usage)
	}
	fs := flag.NewFlagSet(args[0], flag.ContinueOnError)
	var t load.Target
	fs.StringVar(&t.Addr, "addr", "", "HOST:PORT of the way in, or socks5://PROXY/HOST:PORT; of serve: where to listen")
	fs.StringVar(&t.Control, "control", "", "base URL of the server's counters; of serve: HOST:PORT to serve them on")
	fs.DurationVar(&t.Warm, "warm", 500*time.Millisecond, "before anything is counted")
	fs.DurationVar(&t.Time, "time", 2*time.Second, "in which it is")
	watch := fs.String("watch", "", "PID,PID: processes whose cost is taken")
	n := fs.Int("n", 1, "streams, workers, connections, or bytes of a datagram")
	cycles := fs.Int("cycles", 0, "connections: that many, instead of a time")
	way := fs.String("way", "up", "streams: up, down or both")
	stalled := fs.Bool("stalled", false, "hold: downloads of which nothing is read, instead of idle connections")
	if err := fs.Parse(args[1:]); err != nil {
		return err
	}
	var err error
	if t.Watch, err = pids(*watch); err != nil {
		return err
	}
	var result any
	switch args[0] {
	case "serve":
		return serve(ctx, t)
	case "streams":
		result, err = load.RunStreams(ctx, t, *n, *way)
	case "requests":
		result, err = load.RunRequests(ctx, t)
	case "connections":
		result, err = load.RunConnections(ctx, t, *n, *cycles)
	case "datagrams":
		result, err = load.RunDatagrams(ctx, t, *n)
	case "hold":
		return load.Hold(ctx, t, *n, *stalled, held)
	default:
		return fmt.Errorf("usage: %s", usage)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

// held tells who started us that all connections are open, and waits until it closes our input.
func held() error {
	fmt.Println("held")
	_, _ = os.Stdin.Read(make([]byte, 1))
	return nil
}

func pids(s string) (out []int, err error) {
	for f := range strings.SplitSeq(s, ",") {
		if f == "" {
			continue
		}
		n, err := strconv.Atoi(f)
		if err != nil {
			return nil, fmt.Errorf("-watch: %w", err)
		}
		out = append(out, n)
	}
	return out, nil
}

func serve(ctx context.Context, t load.Target) error {
	s := load.NewServer()
	l, err := load.Listen(ctx, t.Addr)
	if err != nil {
		return err
	}
	u, err := net.ListenPacket("udp", t.Addr)
	if err != nil {
		return err
	}
	c, err := net.Listen("tcp", t.Control)
	if err != nil {
		return err
	}
	ended := make(chan error, 3)
	go func() { ended <- s.ServeTCP(l) }()
	go func() { ended <- s.ServeUDP(u) }()
	web := &http.Server{Handler: s.Handler(), ReadHeaderTimeout: 5 * time.Second}
	go func() { ended <- web.Serve(c) }()
	select {
	case err = <-ended:
	case <-ctx.Done():
	}
	_, _, _ = l.Close(), u.Close(), web.Close()
	return err
}

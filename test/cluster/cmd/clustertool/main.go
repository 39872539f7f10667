// Command clustertool holds what the test cluster's scripts need and no shell command offers.
//
//	clustertool pki      -dir DIR -server URL -outside URL -ip A,B -nodes n1,n2
//	clustertool forward  -listen 127.0.0.1:16443 -netns FILE -to ADDRESS [-address-file FILE] [-strict]
//	clustertool capture  -netns FILE -o FILE.pcap [-i INTERFACE]
//	clustertool pcapstat -f FILE.pcap [-marker STRING]
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "clustertool:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	commands := map[string]func(context.Context, []string) error{
		"pki":      func(_ context.Context, args []string) error { return pki(args) },
		"forward":  forward,
		"capture":  capture,
		"pcapstat": func(_ context.Context, args []string) error { return pcapstat(args) },
	}
	if len(args) == 0 || commands[args[0]] == nil {
		return fmt.Errorf("usage: clustertool pki|forward|capture|pcapstat [flags], got %q", args)
	}
	if err := commands[args[0]](ctx, args[1:]); err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	return nil
}

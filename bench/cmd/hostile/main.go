// Command hostile measures what a peer of a gateway gets beside another that floods; see package hostile.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/tenantwire/tenantwire/bench/hostile"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "hostile:", err)
		os.Exit(1)
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	var o hostile.Options
	role := flag.String("role", "", "of a process that this command starts: hub, flood or member")
	flag.IntVar(&o.Rounds, "rounds", 3, "how often each state is measured")
	flag.DurationVar(&o.Time, "time", 1500*time.Millisecond, "of each measurement")
	flag.Int64Var(&o.Stream, "stream", 100_000_000, "bits per second that the victim has to send")
	flag.Int64Var(&o.Bandwidth, "bandwidth", 200_000_000, "bits per second that each peer may have where there are limits")
	floods := flag.String("floods", strings.Join(hostile.Floods, ","), "what to flood with")
	flag.Parse()
	if *floods != "" {
		o.Floods = strings.Split(*floods, ",")
	}
	if *role != "" {
		return hostile.Child(*role, os.Stdin, os.Stdout)
	}
	return hostile.Run(ctx, o, os.Stdout)
}

// Command scale measures what a gateway with many peers or connections costs; see package scale.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tenantwire/tenantwire/bench/scale"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	var o scale.Options
	gateway := flag.Bool("gateway", false, "be the gateway, as this command starts it")
	peers := flag.String("peers", "0,100,1000,5000", "how many peers there are")
	connections := flag.String("connections", "1000,10000", "how many connections there are")
	flag.DurationVar(&o.Time, "time", 3*time.Second, "over which the CPU of doing nothing is taken")
	flag.IntVar(&o.Rounds, "rounds", 1, "how often each peer shakes hands")
	flag.Parse()
	if *gateway {
		return scale.Child(os.Stdin, os.Stdout)
	}
	var err error
	if o.Peers, err = numbers(*peers); err != nil {
		return fmt.Errorf("-peers: %w", err)
	}
	if o.Connections, err = numbers(*connections); err != nil {
		return fmt.Errorf("-connections: %w", err)
	}
	return scale.Run(ctx, o, os.Stdout)
}

func numbers(list string) (out []int, err error) {
	for _, f := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' }) {
		n, err := strconv.Atoi(f)
		if err != nil || n < 0 || n > 1<<16 {
			return nil, fmt.Errorf("%q is not a number from 0 to 65536", f)
		}
		out = append(out, n)
	}
	return out, nil
}

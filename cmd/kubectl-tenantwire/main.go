// Command kubectl-tenantwire is `kubectl tenantwire`: it shows tunnels, and adds and removes their outside peers.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/tenantwire/tenantwire/cli"
)

// version is set when a release is built.
var version = "dev"

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	signal.Ignore(syscall.SIGPIPE) // so that a config that nobody reads is an error, and its peer is taken back
	context.AfterFunc(ctx, stop)   // who cannot wait for what is being taken back signals again
	klog.SetLogger(logr.Discard()) // what client-go has to say comes as errors, too
	log.SetLogger(logr.Discard())  // and controller-runtime would complain after half a minute that it has none
	return cli.Run(ctx, version, os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Program: os.Args[0]})
}
